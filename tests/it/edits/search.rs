//! Entities found by the words of their texts, in the forms that people write them in.

use super::*;
use crate::support::eventually::eventually;

const NOTES: &str = "/api/v1/entities/memo";
const KIND: &str = "/api/v1/kinds/memo";
const JSON: (&str, &str) = ("content-type", "application/json");

async fn found(reader: &Writer<'_>, q: &str) -> Vec<String> {
    let answer = reader.get(&format!("{NOTES}?q={q}&sort=id")).await;
    let items = answer.is(200).body["items"].as_array().expect("a list").clone();
    items.iter().map(|it| it["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn entities_are_found_by_the_words_of_their_texts() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let olha = Writer::with(&hub, token("olha", &["kinds:declare:*", "entities:*:*"], &[]));
    let put =
        async |id: &str, doc: &Value| olha.send(Method::PUT, &format!("{NOTES}/{id}"), &[JSON], doc.to_string()).await;
    let declare = async |of: &Value| olha.send(Method::PUT, KIND, &[JSON], of.to_string()).await;
    declare(&json!({"fields": ["owner"]})).await.is(201);
    put("a", &json!({"title": "Договір оренди землі", "owner": "olha"})).await.is(201);
    put("b", &json!({"title": "Call the company", "lines": [{"text": "про договори"}], "owner": "petro"}))
        .await
        .is(201);
    olha.get(&format!("{NOTES}?q=договір")).await.refused(400, "unknown_search");

    // Texts that are declared later are read from the documents that are there.
    declare(&json!({"fields": ["owner"], "text": ["title", "lines"]})).await.is(200);
    let ready = async || olha.get(&format!("{NOTES}?q=договір")).await.status == 200;
    eventually("words are derived and indexed", ready).await;
    assert_eq!(found(&olha, "договору").await, ["a", "b"]);
    assert_eq!(found(&olha, "оренда%20договір").await, ["a"]);
    assert_eq!(found(&olha, "companies").await, ["b"]);
    assert_eq!(found(&olha, "договір&owner=petro").await, ["b"], "with other filters");
    assert_eq!(found(&olha, "нічого").await, [""; 0]);
    put("a", &json!({"title": "Заява", "owner": "olha"})).await.is(200);
    assert_eq!(
        (found(&olha, "договір").await, found(&olha, "заяви").await),
        (vec!["b".to_owned()], vec!["a".to_owned()])
    );
    olha.send(Method::DELETE, &format!("{NOTES}/b"), &[], String::new()).await.is(200);
    assert_eq!(found(&olha, "договір").await, [""; 0], "what is in the trash is left out");
    assert_eq!(found(&olha, "договір&trash=only").await, ["b"]);
    olha.send(Method::DELETE, &format!("{NOTES}/b?purge=true"), &[], String::new()).await.is(200);
    assert_eq!(
        found(&olha, "договір&trash=include").await,
        [""; 0],
        "nothing of what was purged is left to be found by"
    );
    olha.get(&format!("{NOTES}?q=%27%20%26%20%21")).await.refused(400, "unknown_search");
    let hostile = "a'%20%7C%20!b%3A*%20%3C-%3E%20%5C";
    assert_eq!(found(&olha, hostile).await, [""; 0]);
}

#[tokio::test]
async fn nothing_hidden_is_searched() {
    let mut world = world(false).await;
    world.mirrors.push_str("[identity.views.desk.memo]\nmask = [\"secret\", \"contacts.email\"]\n");
    let hub = world.hub("a").await;
    let olha = Writer::with(&hub, token("olha", &["kinds:declare:*", "entities:*:*"], &[]));
    let declaration = json!({"text": ["title", "secret"]}).to_string();
    olha.send(Method::PUT, KIND, &[JSON], declaration).await.is(201);
    olha.send(Method::PUT, &format!("{NOTES}/a"), &[JSON], json!({"secret": "golden"}).to_string()).await.is(201);
    eventually("words are indexed", async || olha.get(&format!("{NOTES}?q=golden")).await.status == 200).await;
    assert_eq!(found(&olha, "golden").await, ["a"]);
    let desk = Writer::new(&hub, "petro", "desk");
    desk.get(&format!("{NOTES}?q=golden")).await.refused(403, "hidden_field");
    // Words of a whole object are those of what is hidden in it as well.
    let declaration = json!({"text": ["contacts"]}).to_string();
    olha.send(Method::PUT, KIND, &[JSON], declaration).await.is(200);
    desk.get(&format!("{NOTES}?q=golden")).await.refused(403, "hidden_field");
}
