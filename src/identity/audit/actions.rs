//! The names of what is done, the same wherever they are told: the table in `docs/IDENTITY.md`.

use axum::http::Method;

/// Many edits at once, of a kind and not of one entity.
pub(super) const BULK: &str = "entities.bulk";

/// What a request to this route asks for; `None`: nothing that is told.
pub(super) fn of(method: &Method, route: &str, query: &str) -> Option<&'static str> {
    let reads = method == Method::GET || method == Method::HEAD;
    let (read, write) = match route {
        "/api/v1/kinds" | "/api/v1/kinds/{kind}/versions" => ("kinds.read", ""),
        "/api/v1/kinds/{kind}" => ("kinds.read", "kinds.declare"),
        "/api/v1/entities/{kind}" => ("entities.read", "entities.create"),
        "/api/v1/entities/{kind}/{id}" => ("entities.read", entity(method, query)),
        "/api/v1/entities/{kind}/{id}/restore" => ("", "entities.restore"),
        "/api/v1/entities/{kind}/{id}/history" | "/api/v1/entities/{kind}/{id}/history/{revision}" => {
            ("entities.read", "")
        }
        "/api/v1/queries" => ("queries.read", "queries.create"),
        "/api/v1/queries/{id}" => ("queries.read", "queries.delete"),
        "/api/v1/mirrors" => ("mirrors.read", ""),
        "/api/v1/mirrors/{name}/resume" => ("", "mirrors.resume"),
        "/api/v1/connections" => ("connections.read", ""),
        "/api/v1/connections/{client}" => ("", "connections.end"),
        "/api/v1/trace" => ("trace.read", ""),
        "/api/v1/audit" => ("audit.read", ""),
        "/api/v1/revocations" => ("revocations.read", "revocations.create"),
        "/api/v1/revocations/{id}" => ("", "revocations.delete"),
        "/api/v1/service-accounts" => ("accounts.read", "accounts.create"),
        "/api/v1/service-accounts/{name}" => ("", "accounts.delete"),
        "/api/v1/service-accounts/{name}/tokens" => ("tokens.read", "tokens.create"),
        "/api/v1/service-accounts/{name}/tokens/{id}" => ("", "tokens.delete"),
        "/api/{method}" => ("", "api.call"),
        "/pusher/auth" | "/pusher/user-auth" => ("", "pusher.sign"),
        route if route.starts_with("/apps/{id}/") => ("apps.call", "apps.call"),
        _ => return None,
    };
    Some(if reads { read } else { write }).filter(|action| !action.is_empty())
}

fn entity(method: &Method, query: &str) -> &'static str {
    match *method {
        // Nothing else is posted there.
        Method::POST => BULK,
        Method::DELETE if query.split('&').any(|pair| pair == "purge=true") => "entities.purge",
        Method::DELETE => "entities.trash",
        _ => "entities.update",
    }
}

/// Whether it changes something outside of any transaction of ours, so that nobody else tells that it was done.
pub(super) fn is_told_when_done(action: &str) -> bool {
    matches!(action, "mirrors.resume" | "connections.end")
}

/// Whether it only looks: of what stands in its way nobody is told, only of what it may not see.
pub(super) fn only_looks(action: &str) -> bool {
    action.ends_with(".read")
}
