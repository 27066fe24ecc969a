// An OpenID provider of its own, npm `oidc-provider`, unmodified: any name and password will do there. Prints where it is, as JSON, in
// one line, and lives until it is ended. What a token is good for is told by the resource that is asked for.
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

/** Resources: whose they are, and how long (s) their access tokens live. */
const RESOURCES = {
  'https://hub.test': { audience: 'dzvin', accessTokenTTL: 600 },
  'https://short.test': { audience: 'dzvin', accessTokenTTL: 6 },
  'https://other.test': { audience: 'other', accessTokenTTL: 600 },
};
const SCOPE = 'console';

const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${server.address().port}`;

/** A public client on this machine: the port of its redirect is not compared (RFC 8252, 7.3). */
const client = (client_id, more = []) => ({
  client_id, application_type: 'native', token_endpoint_auth_method: 'none', response_types: ['code'],
  grant_types: ['authorization_code', ...more],
  redirect_uris: ['http://127.0.0.1/console/'],
  post_logout_redirect_uris: ['http://127.0.0.1/console/'],
});

const roles = ['reader'];
const provider = new Provider(url, {
  // The name of the first is also the audience, so that its ID tokens are for the hub as well.
  clients: [client('dzvin', ['refresh_token']), client('once')],
  scopes: ['openid', SCOPE],
  claims: { openid: ['sub', 'roles'] },
  conformIdTokenClaims: false,
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, roles }) }),
  extraTokenClaims: () => ({ roles }),
  features: {
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_, resource) => ({ scope: SCOPE, accessTokenFormat: 'jwt', ...RESOURCES[resource] }),
    },
  },
  issueRefreshToken: (_, of) => of.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: () => true,
  clientBasedCORS: () => true,
  pkce: { required: () => true },
  ttl: { IdToken: 600 },
  cookies: { keys: ['of a test'] },
});
server.on('request', provider.callback());
console.log(JSON.stringify({ issuer: url }));
