//! Claims and permissions: what stands in a token, before anybody trusts it.

use dzvin_protocols::{
    identity::{ClaimRules, Claims, MAX_INFO, MAX_PERMISSIONS, MAX_SUBJECT, Permissions, SubscriptionClaims},
    platform::Kind,
};

use super::text;

/// Claims that hold are within their limits, say the same after writing and reading, and end; permissions read back, and
/// grant no more together than one by one.
pub fn claims(data: &[u8]) {
    let text = text(data);
    permissions(&text.split([',', ' ', '"']));
    let Ok(claims) = serde_json::from_str::<Claims>(&text) else { return };
    permissions(&claims.permissions.iter().map(String::as_str));
    let rules = ClaimRules { leeway: 5, ..ClaimRules::default() };
    for now in [i64::MIN, 0, 1_700_000_000, i64::MAX] {
        let verdict = claims.check(now, &rules);
        if verdict.is_ok() {
            assert!(claims.sub.len() <= MAX_SUBJECT);
            assert!(claims.info.as_ref().is_none_or(|info| info.get().len() <= MAX_INFO));
            assert!(claims.exp.is_none_or(|exp| exp > now.saturating_sub(5)));
            assert!(claims.nbf.is_none_or(|nbf| nbf <= now.saturating_add(5)));
        }
        let strict = ClaimRules { issuer: Some("me".into()), audience: Some("dzvin".into()), ..rules.clone() };
        assert!(verdict.is_ok() || claims.check(now, &strict).is_err(), "more rules never allow more");
    }
    let written = serde_json::to_string(&claims).unwrap_or_default();
    let again = serde_json::from_str::<Claims>(&written);
    let again = again.as_ref().map(|c| (&c.sub, c.exp, c.nbf, c.iat, &c.aud, &c.roles, &c.permissions, &c.jti, &c.iss));
    let first = (
        &claims.sub,
        claims.exp,
        claims.nbf,
        claims.iat,
        &claims.aud,
        &claims.roles,
        &claims.permissions,
        &claims.jti,
        &claims.iss,
    );
    assert!(again.is_ok_and(|again| again == first), "claims read back: {written}");
}

/// A subscription's claims that hold are of the user and the channel, within their limits, and read back.
pub fn subscription_claims(data: &[u8]) {
    let Ok(claims) = serde_json::from_str::<SubscriptionClaims>(&text(data)) else { return };
    let rules = ClaimRules::default();
    for now in [i64::MIN, 0, 1_700_000_000, i64::MAX] {
        let verdict = claims.check(&claims.sub, &claims.channel, now, &rules);
        if verdict.is_ok() {
            assert!(!claims.channel.is_empty() && claims.ends_at().is_none_or(|end| end > now));
            assert!(claims.info_bytes().is_none_or(|info| info.len() <= MAX_INFO));
        }
        assert!(claims.check("somebody else", &claims.channel, now, &rules).is_err() || claims.sub == "somebody else");
        assert!(claims.check(&claims.sub, "", now, &rules).is_err());
    }
    let written = serde_json::to_string(&claims).unwrap_or_default();
    let again = serde_json::from_str::<SubscriptionClaims>(&written);
    let told = |it: &SubscriptionClaims| {
        (it.sub.clone(), it.channel.clone(), it.exp, it.expire_at, it.overrides, it.b64info.clone(), it.jti.clone())
    };
    assert!(again.is_ok_and(|again| told(&again) == told(&claims)), "claims read back: {written}");
}

fn permissions<'a>(texts: &(impl Iterator<Item = &'a str> + Clone)) {
    let Ok(all) = Permissions::parse(texts.clone()) else { return };
    assert!(all.iter().count() <= MAX_PERMISSIONS);
    assert_eq!(Permissions::parse(all.iter()).as_ref(), Ok(&all), "permissions read back");
    for name in ["procedure", "a", "registry-object"] {
        let Ok(kind) = Kind::new(name) else { continue };
        let apart = texts.clone().any(|one| Permissions::parse([one]).is_ok_and(|one| one.may_read(&kind)));
        assert_eq!(all.may_read(&kind), apart, "together as one by one");
    }
    let granting = ["*", "no:such:thing", "no:*:thing", "no:such:*", "no:*:*"];
    assert_eq!(all.allow("no", "such", "thing"), all.iter().any(|one| granting.contains(&one)));
}
