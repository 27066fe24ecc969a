//! Tokens of issuers, those of subscriptions, and those that are missing.

use super::*;

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

fn of(issuers: Vec<IssuerConfig>) -> Verifier {
    let setup = Setup::of_keys(vec![key("a", 1)], TokenRules::default());
    Verifier::of(Setup { issuers, ..setup }).expect("verifier")
}

fn asked(hub: &Verifier, token: &str) -> Result<Identity, AuthError> {
    hub.authenticate(token).now_or_never().expect("at once")
}

const ISSUER: &str = "https://id.example";

/// What an issuer of the tests puts into every token.
fn foreign(more: &Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "aud": "dzvin", "sub": "olha", "exp": now() + 60, "roles": ["viewer"]});
    for (name, value) in more.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    claims
}

#[test]
fn what_we_sign_another_implementation_takes() {
    for (algorithm, other, length) in
        [(Alg::Hs256, Algorithm::HS256, 32), (Alg::Hs384, Algorithm::HS384, 48), (Alg::Hs512, Algorithm::HS512, 64)]
    {
        assert!(SigningKey::with_algorithm("a", &vec![7; length - 1], algorithm).is_err(), "{algorithm}");
        let secret = vec![7; length];
        let hub = verifier(vec![SigningKey::with_algorithm("a", &secret, algorithm).expect("key")]);
        let token = hub.sign(&Claims { exp: Some(now() + 60), ..claims("olha") }).expect("signed");
        let decoded =
            jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_secret(&secret), &Validation::new(other));
        let decoded = decoded.expect("taken");
        assert_eq!((decoded.header.kid.as_deref(), &decoded.claims["sub"]), (Some("a"), &json!("olha")));
        assert!(asked(&hub, &token).is_ok());
        let header = jsonwebtoken::Header::new(other);
        let theirs = jsonwebtoken::encode(&header, &json!({"sub": "u"}), &EncodingKey::from_secret(&secret));
        assert!(asked(&hub, &theirs.expect("signed")).is_ok(), "and the other way round");
    }
    assert!(SigningKey::with_algorithm("a", &[7; 64], Alg::Rs256).is_err());
}

#[test]
fn every_algorithm_verifies_what_it_signed_and_nothing_else() {
    let names = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];
    let signers: Vec<Signer> = names.iter().map(|name| Signer::new(name, name.parse().expect("known"))).collect();
    let hub = of(vec![with_keys(ISSUER, &signers.iter().collect::<Vec<_>>(), "")]);
    for signer in &signers {
        let (name, claims) = (signer.algorithm.name(), foreign(&json!({})));
        let good = signer.token(&claims);
        assert_eq!(asked(&hub, &good).map(|identity| identity.user.to_string()), Ok("olha".to_owned()), "{name}");
        for other in names.iter().filter(|other| **other != name) {
            // The same key under another algorithm, and another key's name over this signature.
            for (alg, kid) in [(*other, name), (name, *other), (*other, *other)] {
                let header = json!({"alg": alg, "kid": kid});
                assert!(asked(&hub, &signer.with_header(&header, &claims)).is_err(), "{name} as {header}");
            }
        }
        let nameless = signer.with_header(&json!({"alg": name}), &claims);
        assert!(asked(&hub, &nameless).is_ok(), "without a name every key of the algorithm is tried: {name}");
        let other = foreign(&json!({"sub": "admin"}));
        let changed = good.replace(&part(&claims), &part(&other));
        assert_eq!(asked(&hub, &changed).map(drop), Err(AuthError::Invalid), "{name}");
    }
}

/// The classics: a public key used as a secret, no algorithm, a key of the token's own.
#[test]
fn a_token_does_not_choose_how_it_is_checked() {
    let (signer, evil) = (Signer::new("r", Alg::Rs256), Signer::new("evil", Alg::Es256));
    let hub = of(vec![with_keys(ISSUER, &[&signer], "")]);
    let claims = foreign(&json!({}));
    let modulus = signer.jwk["n"].as_str().expect("text");
    for secret in [signer.pem.as_bytes(), signer.pem.trim().as_bytes(), modulus.as_bytes(), b""] {
        for kid in ["r", "a", "../../../dev/null"] {
            let header = json!({"alg": "HS256", "kid": kid});
            let token = forge(&header, &claims, Algorithm::HS256, secret);
            assert_eq!(asked(&hub, &token).map(drop), Err(AuthError::Invalid), "{kid}");
        }
    }
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let message = format!("{}.{}", part(&json!({"alg": alg, "kid": "r"})), part(&claims));
        for signature in ["", "AA", &modulus[..43]] {
            assert_eq!(asked(&hub, &format!("{message}.{signature}")).map(drop), Err(AuthError::Invalid), "{alg}");
        }
    }
    for header in [
        json!({"alg": "ES256", "kid": "r", "jwk": evil.jwk}),
        json!({"alg": "ES256", "jwk": evil.jwk}),
        json!({"alg": "ES256", "kid": "evil", "jku": "https://evil.example/keys"}),
        json!({"alg": "ES256", "kid": "evil", "x5u": "https://evil.example/keys", "x5c": ["AAAA"]}),
        json!({"alg": "ES256", "kid": "../../../dev/null"}),
        json!({"alg": "HS256", "kid": "a' UNION SELECT 'secret"}),
        json!({"alg": "HS256", "kid": "/proc/self/environ"}),
        json!({"alg": "HS256", "kid": ""}),
        json!({"alg": "ES256", "kid": "r", "crit": ["exp"]}),
    ] {
        let token = evil.with_header(&header, &claims);
        assert_eq!(asked(&hub, &token).map(drop), Err(AuthError::Invalid), "{header}");
    }
    // A signature of zeros, which once passed elsewhere.
    let ec = Signer::new("e", Alg::Es256);
    let message = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "e"})), part(&claims));
    let zeros = format!("{message}.{}", base64url(&[0; 64]));
    assert!(asked(&of(vec![with_keys(ISSUER, &[&ec], "")]), &zeros).is_err());
}

#[test]
fn an_issuers_token_is_for_us_and_ends() {
    let (signer, other) = (Signer::new("e", Alg::Es256), Signer::new("e", Alg::Es256));
    let hub = of(vec![with_keys(ISSUER, &[&signer], ""), with_keys("https://other.example", &[&other], "")]);
    for (claims, expected) in [
        (json!({}), Ok(())),
        (json!({"aud": ["x", "dzvin"]}), Ok(())),
        (json!({"aud": "x"}), Err(AuthError::Invalid)),
        (json!({"aud": null}), Err(AuthError::Invalid)),
        (json!({"iss": "https://id.example/"}), Err(AuthError::Invalid)),
        (json!({"iss": "https://other.example"}), Err(AuthError::Invalid)),
        (json!({"iss": null}), Err(AuthError::Invalid)),
        (json!({"iss": [ISSUER]}), Err(AuthError::Invalid)),
        (json!({"exp": null}), Err(AuthError::Invalid)),
        (json!({"exp": 1000}), Err(AuthError::Expired)),
        (json!({"nbf": now() + 3600}), Err(AuthError::Invalid)),
        (json!({"sub": ""}), Err(AuthError::Invalid)),
        (json!({"channel": "news"}), Err(AuthError::Invalid)),
    ] {
        assert_eq!(asked(&hub, &signer.token(&foreign(&claims))).map(drop), expected, "{claims}");
    }
    let wanted = json!({"permissions": ["*"], "channels": ["secret"], "roles": ["viewer", "king"]});
    let greedy = signer.token(&foreign(&wanted));
    let identity = asked(&hub, &greedy).expect("good");
    assert!(!identity.permissions.allow("mirrors", "operate", "x") && identity.subscriptions.is_empty());
    assert!(identity.permissions.allow("entities", "read", "x"));
    let trusting = of(vec![with_keys(ISSUER, &[&signer], "trusted = true")]);
    let identity = asked(&trusting, &greedy).expect("good");
    assert!(identity.permissions.allow("mirrors", "operate", "x") && identity.subscriptions.len() == 1);
    // Our own keys speak for us alone: what they sign needs no issuer.
    assert!(asked(&hub, &hub.sign(&Claims { sub: "u".into(), ..Claims::default() }).expect("signed")).is_ok());
}

#[test]
fn public_keys_of_the_configuration_are_checked() {
    let (rsa, ec) = (Signer::new("r", Alg::Rs256), Signer::new("e", Alg::Es256));
    let try_pem = |pem: &str, algorithm: &str| {
        let text = format!("[[keys]]\nalgorithm = '{algorithm}'\npem = '''\n{pem}'''\n");
        let issuers = vec![crate::identity::doubles::issuer(ISSUER, &text)];
        Verifier::of(Setup { issuers, ..Setup::of_keys(vec![], TokenRules::default()) }).map(drop)
    };
    assert!(try_pem(&ec.pem, "ES256").is_ok() && try_pem(&rsa.pem, "PS512").is_ok());
    let private = ec.pem.replace("PUBLIC", "PRIVATE");
    let two = format!("{}{}", ec.pem, ec.pem);
    let cut = format!("{}\n-----END PUBLIC KEY-----\n", &ec.pem[..60]);
    for (pem, algorithm) in [
        (&*ec.pem, "ES384"),
        (&ec.pem, "RS256"),
        (&ec.pem, "EdDSA"),
        (&rsa.pem, "ES256"),
        (&ec.pem, "HS256"),
        (&private, "ES256"),
        (&two, "ES256"),
        (&cut, "ES256"),
        ("", "ES256"),
    ] {
        assert!(matches!(try_pem(pem, algorithm), Err(IdentityError::PublicKey(_))), "{algorithm} {pem}");
    }
}

#[test]
fn a_token_subscribes_its_bearer() {
    let hub = verifier(vec![key("a", 1)]);
    let token = |body: &Value| forge(&json!({"alg": "HS256"}), body, Algorithm::HS256, &[1; 32]);
    let overrides = json!({"presence": {"value": true}, "force_recovery": {"value": false}});
    let body = json!({"sub": "olha", "jti": "t-1", "iat": 5, "channels": ["news", "chat"],
        "subs": {"chat": {"info": ["x"], "b64data": "AP8=", "override": overrides}, "own": {}}});
    let identity = asked(&hub, &token(&body)).expect("good");
    assert_eq!((identity.jti.as_deref(), identity.issued_at), (Some("t-1"), Some(5)));
    let [chat, news, own] = &*identity.subscriptions else { panic!("{:?}", identity.subscriptions) };
    assert_eq!((&*chat.channel, &*news.channel, &*own.channel), ("chat", "news", "own"));
    assert_eq!((chat.info.as_deref(), chat.data.as_deref()), (Some(&br#"["x"]"#[..]), Some(&[0, 255][..])));
    assert_eq!((chat.overrides.presence, chat.overrides.force_recovery), (Some(true), Some(false)));
    assert_eq!(*news, ServerSubscription { channel: "news".into(), ..ServerSubscription::default() });
    let many: Vec<String> = (0..=MAX_TOKEN_CHANNELS).map(|n| n.to_string()).collect();
    for bad in [
        json!({"channels": many}),
        json!({"subs": {"c": {"b64data": "?"}}}),
        json!({"subs": []}),
        json!({"jti": "j".repeat(257)}),
    ] {
        assert_eq!(asked(&hub, &token(&bad)).map(drop), Err(AuthError::Invalid), "{bad}");
    }
}

#[test]
fn a_subscriptions_token_is_for_one_user_and_one_channel() {
    let hub = verifier(vec![key("a", 1)]);
    let body = |more: &Value| {
        let mut body = json!({"sub": "olha", "channel": "news"});
        more.as_object().expect("claims").iter().for_each(|(name, value)| body[name] = value.clone());
        forge(&json!({"alg": "HS256"}), &body, Algorithm::HS256, &[1; 32])
    };
    let ask = |token: &str, user, channel| hub.subscription(token, user, channel).now_or_never().expect("at once");
    let (ahead, past) = (now() + 600, now() - 600);
    let overrides = json!({"join_leave": {"value": true}});
    let rich = body(&json!({"exp": ahead, "expire_at": ahead + 9, "b64info": "e30=", "override": overrides}));
    let grant = ask(&rich, "olha", "news").expect("good");
    assert_eq!(grant.expires_at.map(OffsetDateTime::unix_timestamp), Some(ahead + 9));
    assert_eq!((grant.info.as_deref(), grant.overrides.join_leave), (Some(&b"{}"[..]), Some(true)));
    let endless = ask(&body(&json!({"exp": ahead, "expire_at": 0})), "olha", "news").expect("good");
    assert_eq!(endless.expires_at, None);
    for (token, user, channel, expected) in [
        (body(&json!({})), "ihor", "news", AuthError::Invalid),
        (body(&json!({})), "", "news", AuthError::Invalid),
        (body(&json!({})), "olha", "chat", AuthError::Invalid),
        (body(&json!({"channel": ""})), "olha", "", AuthError::Invalid),
        (body(&json!({"exp": past})), "olha", "news", AuthError::Expired),
        (body(&json!({"expire_at": past})), "olha", "news", AuthError::Expired),
        (body(&json!({"exp": past})), "ihor", "news", AuthError::Invalid),
        (body(&json!({"nbf": ahead})), "olha", "news", AuthError::Invalid),
        (hub.sign(&claims("olha")).expect("signed"), "olha", "news", AuthError::Invalid),
        (format!("{rich}x"), "olha", "news", AuthError::Invalid),
        (String::new(), "", "news", AuthError::Invalid),
    ] {
        assert_eq!(ask(&token, user, channel).map(drop), Err(expected), "{user} {channel}");
    }
    assert_eq!(asked(&hub, &rich).map(drop), Err(AuthError::Invalid), "and it connects nobody");
}

#[test]
fn subscriptions_may_have_keys_of_their_own() {
    let (ours, theirs) = (key("a", 1), key("a", 2));
    let setup = Setup::of_keys(vec![ours], TokenRules::default());
    let hub = Verifier::of(Setup { subscription_keys: vec![theirs.clone()], ..setup }).expect("verifier");
    let claims = SubscriptionClaims { sub: "olha".into(), channel: "news".into(), ..SubscriptionClaims::default() };
    let ask = |token: &str| hub.subscription(token, "olha", "news").now_or_never().expect("at once").map(drop);
    assert_eq!(ask(&hub.sign_subscription(&claims).expect("signed")), Ok(()));
    assert_eq!(ask(&verifier(vec![key("a", 1)]).sign_subscription(&claims).expect("signed")), Err(AuthError::Invalid));
    let connection = verifier(vec![theirs]).sign(&Claims::default()).expect("signed");
    assert_eq!(asked(&hub, &connection).map(drop), Err(AuthError::Invalid), "nor do they connect");
    // An issuer's tokens open subscriptions only where that is said.
    let signer = Signer::new("e", Alg::Es256);
    let token = signer.token(&foreign(&json!({"channel": "news"})));
    let open = |more| {
        let hub = of(vec![with_keys(ISSUER, &[&signer], more)]);
        hub.subscription(&token, "p-olha", "news").now_or_never().expect("at once").map(drop)
    };
    assert_eq!(open("subject_prefix = 'p-'"), Err(AuthError::Invalid));
    assert_eq!(open("subject_prefix = 'p-'\nsubscriptions = true"), Ok(()));
    assert_eq!(open("subscriptions = true"), Err(AuthError::Invalid), "another user");
}

/// What an issuer says of its tokens is believed up to a limit of ours.
#[test]
fn an_issuers_token_opens_subscriptions_for_so_long_and_no_longer() {
    let signer = Signer::new("e", Alg::Es256);
    let open = |lifetime: &str, more: Value| {
        let more_config = format!("subscriptions = true\n{lifetime}");
        let hub = of(vec![with_keys(ISSUER, &[&signer], &more_config)]);
        let mut claims = foreign(&json!({"channel": "news"}));
        claims.as_object_mut().expect("claims").remove("exp");
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        let grant = hub.subscription(&signer.token(&claims), "olha", "news").now_or_never().expect("at once");
        grant.map(|grant| grant.expires_at.map(|at| at.unix_timestamp() - now()))
    };
    let (hour, day) = ("max_subscription_lifetime = '1h'", 24 * 3600);
    let about = |seconds: i64, found: Result<Option<i64>, AuthError>| {
        let left = found.expect("good").expect("an end");
        assert!((seconds - 5..=seconds).contains(&left), "{left} where {seconds} are left");
    };
    // One without an end has one all the same, from when it was made.
    about(day, open("", json!({"iat": now()})));
    about(3600, open(hour, json!({"iat": now()})));
    about(600, open(hour, json!({"iat": now() - 3000})));
    about(600, open(hour, json!({"iat": now() - 3000, "exp": now() + 100_000})));
    about(600, open(hour, json!({"iat": now() - 3000, "exp": now() + 60, "expire_at": 0})));
    about(60, open(hour, json!({"iat": now(), "exp": now() + 60})));
    about(3600, open(hour, json!({"iat": now() + 3})));
    assert_eq!(open(hour, json!({"iat": now() - 3700})), Err(AuthError::Expired));
    assert_eq!(open(hour, json!({"iat": now() + 1_000_000})), Err(AuthError::Invalid), "made in the future");
    // Who does not say when it was made has to say when it ends, soon.
    assert_eq!(open(hour, json!({})), Err(AuthError::Invalid));
    assert_eq!(open(hour, json!({"exp": now() + 4000})), Err(AuthError::Invalid));
    about(3000, open(hour, json!({"exp": now() + 3000})));
    assert_eq!(open("max_subscription_lifetime = '0s'", json!({})), Ok(None), "where that is wanted");
    // Keys of ours are in our own hands.
    let claims = SubscriptionClaims { sub: "olha".into(), channel: "news".into(), ..SubscriptionClaims::default() };
    let hub = verifier(vec![key("a", 1)]);
    let token = hub.sign_subscription(&claims).expect("signed");
    let grant = hub.subscription(&token, "olha", "news").now_or_never().expect("at once").expect("good");
    assert_eq!(grant.expires_at, None);
}

#[test]
fn nobody_connects_without_a_token_unless_that_is_wanted() {
    assert_eq!(asked(&verifier(vec![key("a", 1)]), "").map(drop), Err(AuthError::Invalid));
    let with = |role: Option<&str>| {
        let setup = Setup::of_keys(vec![key("a", 1)], TokenRules::default());
        Verifier::of(Setup { anonymous: Some(role.map(str::to_owned)), ..setup }).expect("verifier")
    };
    let nobody = asked(&with(None), "").expect("nobody");
    assert!(nobody.user.is_empty() && *nobody.permissions == Permissions::default() && nobody.expires_at.is_none());
    let viewer = asked(&with(Some("viewer")), "").expect("nobody");
    assert!(viewer.permissions.allow("entities", "read", "x") && !viewer.permissions.allow("mirrors", "operate", "x"));
    assert_eq!(asked(&with(Some("viewer")), " ").map(drop), Err(AuthError::Invalid));
}

#[tokio::test]
async fn issuers_that_stay_keep_their_keys_over_a_reload() {
    let signer = Signer::new("e", Alg::Es256);
    let publisher = Publisher::new(Mood::Says(set_of(&[&signer]))).await;
    let pace = Pace { pause: Duration::from_secs(3600), patience: Duration::from_secs(20) };
    let setup = || Setup {
        issuers: vec![crate::identity::doubles::issuer(ISSUER, &format!("jwks_url = '{}'", publisher.url))],
        pace,
        ..Setup::of_keys(vec![key("a", 1)], TokenRules::default())
    };
    let hub = Arc::new(Verifier::of(setup()).expect("verifier"));
    let keeping = tokio::spawn(Arc::clone(&hub).keep(std::future::pending()));
    let token = signer.token(&foreign(&json!({})));
    let first = hub.verify(&token, OffsetDateTime::now_utc()).map(drop);
    assert_eq!(first, Err(AuthError::Unavailable), "who does not wait");
    assert_eq!(hub.authenticate(&token).await.expect("good").user, "olha".into());
    publisher.becomes(Mood::Hangs);
    hub.replace_all(setup()).expect("the same");
    assert_eq!(asked(&hub, &token).map(drop), Ok(()), "at once, with the keys that are known");
    hub.replace(vec![key("a", 1)], TokenRules::default()).expect("none");
    assert_eq!(asked(&hub, &token).map(drop), Err(AuthError::Invalid), "an issuer that is gone is nobody");
    keeping.abort();
}
