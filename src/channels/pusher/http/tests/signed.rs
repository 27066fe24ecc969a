//! Who may ask at all.

use super::*;

#[tokio::test]
async fn whoever_does_not_sign_is_refused() {
    let kit = Kit::new();
    let (body, path) = (r#"{"name":"a","data":"b","channel":"x"}"#, "/apps/1/events");
    let sign = |method: &str, path: &str, body: &str, now: i64| {
        sign_query(method, path, &[], body.as_bytes(), &credentials("1"), now)
    };
    let good = sign("POST", path, body, NOW());
    assert_eq!(kit.send("POST", &format!("{path}?{good}"), body).await.0, 200);
    let without = |key: &str| good.split('&').filter(|pair| !pair.starts_with(key)).collect::<Vec<_>>().join("&");
    let stranger = sign_query("POST", path, &[], body.as_bytes(), &credentials("9"), NOW());
    let forged =
        sign_query("POST", path, &[], body.as_bytes(), &Credentials::new("key-1", "a guess").expect("key"), NOW());
    let others = sign_query("POST", path, &[], body.as_bytes(), &credentials("2"), NOW());
    for (query, body, what) in [
        (String::new(), body, "nothing"),
        (without("auth_key"), body, "no key"),
        (without("auth_signature"), body, "no signature"),
        (without("auth_timestamp"), body, "no time"),
        (without("auth_version"), body, "no version"),
        (without("body_md5"), body, "no sum"),
        (good.replace("auth_version=1.0", "auth_version=2.0"), body, "another version"),
        (good.clone(), "{}", "another body"),
        (good.clone(), "", "no body"),
        (sign("POST", path, body, NOW() - 700), body, "too old"),
        (sign("POST", path, body, NOW() + 700), body, "from the future"),
        (sign("POST", path, body, i64::MIN), body, "before time"),
        (good.replace("auth_timestamp=", "auth_timestamp=x"), body, "no number"),
        (sign("GET", path, body, NOW()), body, "another method"),
        (sign("POST", "/apps/1/batch_events", body, NOW()), body, "another path"),
        (sign("POST", "/APPS/1/events", body, NOW()), body, "a path in another case"),
        (format!("{good}&info=user_count"), body, "a parameter more"),
        (good.to_uppercase().replace("AUTH_", "auth_").replace("BODY_MD5", "body_md5"), body, "another case"),
        (stranger, body, "a stranger"),
        (forged, body, "another secret"),
        (others, body, "another application"),
    ] {
        let (status, answer) = kit.send("POST", &format!("{path}?{query}"), body).await;
        assert_eq!((status, &answer["code"]), (401, &value!("bad_signature")), "{what}: {answer}");
        assert!(!answer.to_string().contains("secret"), "{answer}");
    }
    for (query, what) in [
        (format!("{good}&auth_key=key-1"), "a key twice"),
        (format!("{good}&AUTH_KEY=key-2"), "a key twice in another case"),
        (good.replace("auth_key=", "auth_key=%zz"), "a broken escape"),
        (format!("{good}&{}", "x".repeat(9000)), "a long query"),
    ] {
        assert_eq!(kit.send("POST", &format!("{path}?{query}"), body).await.0, 400, "{what}");
    }
    let at = |target: &str| sign("POST", target, body, NOW());
    assert_eq!(
        kit.send("POST", &format!("/apps/9/events?{}", at("/apps/9/events")), body).await.0,
        401,
        "no such application"
    );
    assert_eq!(
        kit.send("POST", &format!("/apps//events?{}", at("/apps//events")), body).await.0,
        401,
        "nor of this name"
    );
    for nowhere in ["/Apps/1/events", "/apps/1/Events", "/apps/1/events/", "/apps/1", "/apps/1/users/7"] {
        assert_eq!(kit.send("POST", &format!("{nowhere}?{}", at(nowhere)), body).await.0, 404, "{nowhere}");
    }
    assert_eq!(kit.send("GET", &format!("{path}?{good}"), "").await.0, 405);
    assert_eq!(kit.heard("x").await.len(), 1, "nothing but the good one was published");

    // Two keys at once, and an application that is switched off.
    let mut app = App::new("1", vec![credentials("new"), credentials("1")]).expect("app");
    kit.apps.replace(vec![app.clone()]).expect("apps");
    assert_eq!(
        kit.send("POST", &format!("{path}?{good}"), body).await.0,
        200,
        "the old key is alive, and there is no nonce"
    );
    app.enabled = false;
    kit.apps.replace(vec![app]).expect("apps");
    let (status, answer) = kit.send("POST", &format!("{path}?{good}"), body).await;
    assert_eq!((status, &answer["code"]), (403, &value!("app_disabled")));
    assert_eq!(kit.send("POST", &format!("{path}?{}", without("auth_signature")), body).await.0, 401);
}
