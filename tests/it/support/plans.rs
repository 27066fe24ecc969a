//! How PostgreSQL would do the statements of the offline cache, whatever their parameters are.

use sqlx::PgConnection;

/// The wanted ones of the committed queries, each with its plan.
pub async fn plans(connection: &mut PgConnection, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    plans_with(connection, wanted, &[]).await
}

/// The same with these values; `NULL` where there are none.
pub async fn plans_with(
    connection: &mut PgConnection,
    wanted: impl Fn(&str) -> bool,
    values: &[String],
) -> Vec<(String, String)> {
    let mut plans = Vec::new();
    for (n, entry) in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx")).expect(".sqlx").enumerate() {
        let text = std::fs::read_to_string(entry.expect("entry").path()).expect("cached query");
        let cached: serde_json::Value = serde_json::from_str(&text).expect("json");
        let query = cached["query"].as_str().expect("query");
        if !wanted(query) {
            continue;
        }
        let params = cached["describe"]["parameters"]["Left"].as_array().map_or(0, Vec::len);
        let nulls = if values.is_empty() { vec!["NULL"; params].join(", ") } else { values.join(", ") };
        let prepare = format!("PREPARE q{n} AS {query}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut *connection).await.expect(query);
        let explain =
            if params == 0 { format!("EXPLAIN EXECUTE q{n}") } else { format!("EXPLAIN EXECUTE q{n} ({nulls})") };
        let lines: Vec<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(explain)).fetch_all(&mut *connection).await.expect(query);
        plans.push((query.to_owned(), lines.join("\n")));
    }
    plans
}
