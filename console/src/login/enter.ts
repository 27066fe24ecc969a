// From the issuer's answer to a session, or to words why there is none.
import { Api } from '../api/client';
import { Problem } from '../api/problem';
import type { Answer } from './answer';
import { pasted } from './bearer';
import { LoginFailure, type Notice, asFailure, noticeOf } from './failure';
import { complete } from './issuer';
import { LoginSession } from './session';
import { hostOf, readLogin } from './settings';

export type Entered = { session: LoginSession } | { notice: Notice; refused: boolean };

export async function enter(answer: Answer): Promise<Entered> {
  let host = '';
  try {
    const settings = await readLogin().catch(() => {
      throw new LoginFailure('page');
    });
    // Nobody could have asked.
    if (!settings) throw new LoginFailure('state');
    host = hostOf(settings);
    const held = await complete(settings, answer);
    await tried(held.token);
    return { session: new LoginSession(held) };
  } catch (error) {
    const failure = asFailure(error);
    return { notice: noticeOf(failure, host), refused: failure.trouble === 'token' };
  }
}

/** Only a hub that refuses the token is a reason to stay outside: whatever else is wrong with it, the board says. */
async function tried(token: string): Promise<void> {
  try {
    await new Api(pasted(token), () => {}).kinds();
  } catch (error) {
    if (!(error instanceof Problem && error.signedOut)) return;
    // It has just been made: who takes it for an old one has another time.
    throw new LoginFailure(error.code === 'token_expired' ? 'clock' : 'token');
  }
}
