//! W3C Trace Context, as far as it passes through here.

/// The trace's id within a `traceparent` of ours (`00-{trace}-{parent}-{flags}`): what log lines of all systems share.
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.get(3..35)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_second_field() {
        let whole = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_id(whole), Some("0af7651916cd43dd8448eb211c80319c"));
        for short in ["", "00-0af7", "дзвіндзвіндзвіндзвін"] {
            assert_eq!(trace_id(short), None, "{short}");
        }
    }
}
