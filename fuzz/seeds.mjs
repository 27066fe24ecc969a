// Writes the seed files of fuzz/corpus: hand-written cases and the real frames of tests/fixtures. `node fuzz/seeds.mjs`
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

const here = new URL(".", import.meta.url);
const fixture = (path) => readFileSync(new URL(`../tests/fixtures/${path}`, here));
const bytes = (...parts) => Buffer.concat(parts.map((part) => Buffer.from(part)));

function seeds(target, all) {
  const folder = new URL(`corpus/${target}/`, here);
  mkdirSync(folder, { recursive: true });
  all.forEach((seed, n) => writeFileSync(new URL(`seed-${String(n).padStart(3, "0")}`, folder), seed));
}

/** A frame as a client sends it. */
function frame(first, payload, mask = [1, 2, 3, 4]) {
  const data = Buffer.from(payload);
  const head = data.length < 126 ? [first, 0x80 | data.length] : [first, 0xfe, data.length >> 8, data.length & 255];
  return bytes(head, mask, data.map((byte, n) => byte ^ mask[n % 4]));
}

const options = [64, 7, 9];
seeds("websocket", [
  bytes(options, frame(0x81, '{"id":1,"connect":{}}')),
  bytes(options, frame(0x01, "дз"), frame(0x89, "?"), frame(0x80, "він")),
  bytes(options, frame(0x82, Buffer.alloc(300, 7)), frame(0x81, "")),
  bytes(options, frame(0x88, [0x03, 0xe8, ...Buffer.from("bye")])),
  bytes(options, frame(0x88, "")), bytes(options, frame(0x8a, "x")),
  bytes(options, frame(0x81, [0xff, 0xfe])),
  bytes(options, [0x81, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0]),
  bytes(options, [0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x41]),
  bytes(options, [0x81, 0x01, 0x78]), bytes(options, frame(0xc1, "x")), bytes(options, frame(0x83, "x")),
  bytes(options, frame(0x09, "x")), bytes(options, frame(0x80, "x")), bytes(options, frame(0x01, "a"), frame(0x81, "b")),
  bytes([0, 0, 0], frame(0x81, "")), bytes([1, 0, 0], frame(0x01, "abcd"), frame(0x80, "abcde")),
]);

seeds("commands", [
  '{"id":1,"connect":{"token":"a.b.c","name":"js","version":"5.8.0"}}',
  '{"id":2,"subscribe":{"channel":"entities.procedure","recover":true,"epoch":"e1","offset":18446744073709551615,"flag":3}}',
  '{"id":3,"history":{"channel":"entity.procedure.a1","limit":-1,"since":{"offset":5,"epoch":"x"},"reverse":true}}\n{"id":4,"ping":{}}',
  '{}\n\n  \r\n{"id":5,"unsubscribe":{"channel":"x"}}\n', '{"send":{"data":1}}', '{"id":6,"refresh":{"token":"t"}}',
  '{"id":7,"publish":{"channel":"x","data":{"a":1e999}}}', '{"id":8,"presence":{},"presence_stats":{}}',
  '{"id":9,"rpc":{"method":"m"},"sub_refresh":{},"new":{"from":"later"}}', '[1,{}]', '{"id":4294967296}', '{"id":-1}',
  '{"id":1.5,"ping":null}', '{"id":1,"connect":null,"connect":{}}', '{"id":1,"connect":[]}', '{"id":1,"connect":{"token":"\\ud800"}}',
  `{"id":1,"rpc":${"[".repeat(300)}${"]".repeat(300)}}`, `{"id":1,"history":{"since":${'{"epoch":'.repeat(150)}`, "null", '"{"', "{",
  '{"id":1,"subscribe":{"channel":"a\\u0000b\\nc"}}', fixture("centrifuge/commands.v2.jsonl"),
]);

const golden = fixture("centrifuge/commands.v2.protobuf.hex").toString().trim().split("\n").map((line) => Buffer.from(line, "hex"));
const nested = (depth, inner = Buffer.alloc(0)) => (depth ? nested(depth - 1, bytes([0x32, inner.length], inner)) : inner);
const filter = nested(20);
seeds("protobuf", [
  ...golden, bytes(...golden), bytes([0, 0, 0]), bytes([5, 8, 1]), bytes([0x80]), bytes(Array(11).fill(0xff)), bytes([4, 8, 1, 0x22, 0x7f]),
  bytes([5, 8, 1, 0x22, 2, 0x0a, 0xff]), bytes([8 + filter.length, 8, 1, 0x2a, 4 + filter.length - 2, 0x6a, filter.length], filter),
]);

const before = '{"id":1,"name":"widget","price":100,"stock":5,"updated":"2026-01-01"}';
const fossil = (base, rest) => bytes([base.length >> 8, base.length & 255], base, rest);
const cyrillic = (letter) => Buffer.from(`${"а".repeat(20)}${letter}${"👩‍🚀 дзвін ".repeat(4)}`);
seeds("fossil", [
  fossil(before, "15\nY@0,1:1Y@Z,1CCq3I;"), fossil(before, before.replace("100", "101")), fossil(cyrillic("є"), cyrillic("ї")), fossil(cyrillic("😀"), cyrillic("😎")),
  fossil("0123456789", "4\n4@7,0;"), fossil("0123456789", "~~~~~\n~~~~~@0,"), fossil("0123456789", "4\n3~~~~~@3~~~~~,"), fossil("", "0\n0;"), fossil("a".repeat(300), "a".repeat(400)),
  fossil("0123456789abcdef".repeat(8), "g".repeat(17) + "0123456789abcdef".repeat(3)), fossil(bytes([0xff, 0xd0, 0xb0]), bytes([0xd0, 0xb1, 0xff])),
]);

const data = '{"kind":"procedure","id":"a1","revision":2,"offset":7,"doc":{"v":904.240}}';
seeds("bus_form", [
  `7\t2\t1700000000000000\ta1\t00-aa-bb-01\n${data}`, `1\t1\t-1\tключ з пробілом\t\n{}`, `18446744073709551615\t0\t9223372036854775807\ta\t\n`,
  "+1\t01\t+0\ta\t\t\t\n[]", "7\t2\t3\t\t\nx", "1\t2\t3\ta\n{}", "1\t2\t3\n", "\n", "-1\t2\t3\ta\t\n{}", "1\t2\t3\ta\t\n{\n}",
  bytes("1\t2\t3\t", [0xff], "\t\n{}"), `1\t2\t3\t${"i".repeat(257)}\t\n{}`,
]);

const channels = [
  "entities.procedure", "entities.registry-object", "entity.procedure.64f0c0ffee64f0c0ffee0001", `entity.a.h_${"A".repeat(43)}`,
  `h_${"A".repeat(43)}`, "entity.procedure.", "entities.", "entities", "query.x", "inbox.user-1", "calls.", "news", "a=b@c,d.e;f-g_h", "private-entities.procedure",
  "a:b", "a b", "", "дзвін", "entity.procedure.a.b", "x".repeat(255), "x".repeat(256), "x".repeat(101), "a\u0000b", "Entities.procedure", "entities.Procedure",
];
seeds("channels", channels.map((name, n) => bytes([n % 4], name)));

const upstream = ["operations", "requests", "faults"].flatMap((name) => fixture(`mirror/${name}.json`).toString().match(/(?<="frame": ).*?\}(?=, "kind"|,\n)/g));
const objects = gunzipSync(fixture("cdb-tenders-subset.jsonl.gz")).toString().trim().split("\n").sort((a, b) => a.length - b.length);
const small = objects.slice(0, 3);
const real = small.map((doc, n) => `{"type":"upsert","data":${doc},"ts":[17000000${n},1]}`);
seeds("mirror", [
  ...upstream.map((text) => bytes([0], text)), ...real.map((text, n) => bytes([n], text)),
  bytes([1], '{"type":"upsert","data":{"id":"a","_lastModified":5},"ts":"900"}'),
  bytes([2], '{"event":"put","body":{"_id":{"$oid":"64f0"},"dateModified":"2024-01-01T08:15:49+02:00"},"seq":"2024-01-01T08:15:49+02:00"}'),
  bytes([2], '{"event":"update","body":{"id":"a","fields":{"items.0.quantity":2.50,"value.amount":1e5}}}'),
  bytes([3], '{"type":"upsert","data":"a","ts":{"resume":"82A0"}}'),
  bytes([4], '{"type":"upsert","data":{"key":17,"rev":"x","items":[]},"ts":[1,1]}'), bytes([5], '{"\\"\\\\":"delete","дані":"a"}'),
  bytes([0], '{"type":"upsert","data":{\n  "_id": "a",\r\n  "dateModified": "2024-01-01T00:00:00Z"\n},"ts":{"$timestamp":{"t":1,"i":2}}}'),
  bytes([0], '{"type":"upsert","data":{"_id":"a","acc_token":"s","url":"/x?acc_token=s\\u0022&b","dateModified":{"$date":1700000000000}}}'),
  bytes([0], '{"ty\\u0070e":"noop","data":1,"data":2,"ts":[1,2],"type":"delete"}'), bytes([0], "[]"), bytes([0], '{"type":5}'), bytes([0], `{"type":"upsert","data":${"[".repeat(5000)}`),
]);

const dirty = '{"b":[1,{"q":2.0,"p":"\\u00e9\\ud83d\\ude00"},null],"a":{"y":1e10,"x":-0},"_meta":{"systemDateModified":"1"},"status":"x"}';
seeds("documents", [
  ...small.map((doc) => `${doc}\n{"status":"complete","value.amount":1.50,"items.0.quantity":2}`), `${small[0]}\n${small[1]}`,
  `${dirty}\n{"a.y":2,"b.1.q":3,"n.e.w":{},"status":null}`, `{"l":[1]}\n{"l.3":4,"l.0":0}`, `{"l":[1]}\n{"l.1001":4,"l.01":0}`, `{"l":[1]}\n{"l.1002":4}`,
  `{"a":1}\n{"a.b":1}`, `{"a":{}}\n{"a":1,"a.b":2}`, `{}\n{"":1,"a..b":2}`, `{"a":1,"\\u0061":2}\n{"a":3}`, `{"a":{"b":1,"b":2}}\n{"a.b":3}`, `{"a":{"b":1},"a":{"b":2}}\n{"a.b":3}`,
  `{"a":"\\u0000"}\n{"\\ud800":1}`, `{"a":1e1000,"b":1E-1001}\n[]`, `1\n"x"`, `${'{"a":'.repeat(127)}1${"}".repeat(127)}\n{"a.a.a":2}`, `{"a":${"[".repeat(128)}${"]".repeat(128)}}\n{}`, `{"a":${"9".repeat(1001)}}\n{}`, ` { "a" : 1 } \n{"a":2}`,
]);

seeds("versions", [
  "2024-01-01T06:15:49.086000Z\n2024-01-01T08:15:49.086+02:00", "2024-01-01 06:15\n2024-01-01T06:15:49,1", "0000-01-01T00:00:00Z\n9999-12-31T23:59:59.999999999Z",
  "9999-12-31T23:59:59-01:00\n2024-02-30T00:00:00Z", "2024-01-01T23:59:60Z\n2024-01-01T06:15+25:59", "2024-01-01T06:15:49.1234567891234Z\n2024-01-01T06:15:49.123456789Z",
  '"2024-01-01T06:15:49.086000Z"\n{"$date":"2024-01-01T08:15:49+0200"}', '{"$date":1700000000123}\n{"$date":-1}', "1700000000123\n-62167219200000",
  "[1700000000,3]\n[ 1700000000 , 4 ]", '{"$timestamp":{"t":1,"i":2}}\n[1,2]', "[18446744073709551615,18446744073709551616]\n[1,-2]", '"900"\n900', '18446744073709551615\n"+5"', '""\nnull', '"\\u0000"\n"x"', `"${"v".repeat(64)}"\n"${"v".repeat(65)}"`, '{"resume":"82A0"}\n[[1],2]',
]);

seeds("claims", [
  '{"sub":"u1","exp":1700000000.9,"iat":1,"nbf":0,"jti":"j","iss":"me","aud":"dzvin","info":{"n":1.10},"roles":["admin"],"permissions":["entities:read:procedure"]}',
  '{"aud":["a","b"],"permissions":["*"]}', '{"permissions":["entities:*:procedure","entities:read:*","no:such:thing"]}', '{"exp":1e300}', '{"exp":-1}', '{"exp":253402300799,"nbf":253402300800}', '{"sub":1}', '{"aud":{}}', '{"aud":[]}', '{"info":null,"jti":null}',
  `{"sub":"${"a".repeat(257)}"}`, '{"sub":"a\\u0000"}', '["u",1,2,3,"j","me","dzvin",{},[],[]]', '{"exp":"1"}', '{"sub":"a","sub":"b"}', '{"info":"' + "x".repeat(4096) + '"}',
  "entities:read:procedure,entities:write:*,*", "a:b:c a:b:c:d", "a::c", `${"a".repeat(65)}:b:c`, Array.from({ length: 257 }, (_, n) => `a:b:${n}`).join(","), `{"info":${"[".repeat(200)}${"]".repeat(200)}}`,
  '{"channels":["a"],"subs":{"b":{"data":[1.0],"override":{"presence":{"value":true}}}},"b64info":"AP8=","meta":{},"expire_at":5}', '{"subs":{"a":{"b64data":"?"}}}',
  '{"sub":"u","channel":"c"}',
]);

seeds("subscription_claims", [
  '{"sub":"olha","channel":"news","exp":1700000001,"iat":1,"nbf":0,"jti":"j","iss":"me","aud":["dzvin"],"info":{"n":1.10},"expire_at":0,"override":{"presence":{"value":true},"join_leave":{}}}',
  '{"channel":"news","b64info":"e30="}', '{"channel":"news","b64info":"?"}', `{"channel":"news","b64info":"${"A".repeat(8196)}"}`, '{"sub":"a\\u0000","channel":"c"}', '{"expire_at":-1}', '{"override":{"presence":1}}',
  '{"override":[]}', "[]", "{}", '["u","c"]', '{"channel":"","info":null}',
]);

seeds("cursors", [
  "7.9.00ff00ff00ff00ff", "0.0.a", "18446744073709551615.18446744073709551615.f", "18446744073709551616.1.a", "01.2.a",
  "+1.2.a", "-1.2.a", "1.2.", "1.2.a.b", "1.2.a\"", "..", "1.2.\u0000", `1.2.${"a".repeat(64)}`, `1.2.${"a".repeat(65)}`,
]);

const answer = (status, dialect, body) => bytes([status >> 8, status & 255, dialect], body);
const page = (status, dialect, ...rows) => answer(status, dialect, `[${rows.join(",")}]`);
const row = (id, date, more = "") => `{"_id":"${id}","dateModified":"${date}"${more}}`;
seeds("answers", [
  page(200, 0, ...small), page(200, 1, ...small), page(204, 0), answer(204, 0, ""), page(200, 0, row("a", "2024-01-01T06:15:49.086000Z"), row("b", "2024-01-01T08:15:49.086+02:00")),
  page(200, 0, row("a", "2024-01-01T00:00:00Z"), '{"x":1}', "7", "null", row("b", "2024-01-02T00:00:00Z", ',"t":"\\u0000"')), page(200, 0, row("a", "yesterday"), '{"_id":{"$oid":"64f0"}}'),
  answer(200, 0, `{"data":[${row("a", "2024-01-01T00:00:00Z")}],"next_page":{"offset":"1.2.3"}}`), answer(200, 0, '{"data":{}}'), answer(200, 0, '{"data":null}'), answer(200, 0, " \n[ ] "), answer(200, 0, "[[],{}"),
  answer(200, 2, '[{"_id":"a","dateModified":"2024-01-01T00:00:00Z","_meta":{"systemDateModified":"2024-01-03T00:00:00Z"},"_lastModified":5}]'), answer(200, 4, '[{"key":17,"rev":"x","items":[]}]'), answer(200, 3, '["a","b"]'),
  page(200, 0, row("a", "2024-01-01T00:00:00Z", `,"acc_token":"s","url":"/x?acc_token=s"`), row("a", "2024-01-01T00:00:00Z")), answer(200, 0, `[${row("a", "2024-01-01T00:00:00Z", `,"deep":${"[".repeat(300)}${"]".repeat(300)}`)}]`),
  answer(429, 0, "<html>\r\n<head><title>429 Too Many Requests</title></head>\r\n<body>\r\n<center><h1>429 Too Many Requests</h1></center>\r\n</body>\r\n</html>"), answer(503, 0, "<html><h1>503"), answer(502, 0, "a < b > c"),
  answer(403, 0, '{"message":"the token has no permission for this"}'), answer(400, 0, '{"message":"Platform-Version must be 1.1 or higher"}'), answer(422, 0, '{"message":{"title":["required",{"uk_UA":null}]}}'), answer(401, 0, '{"message":null}'),
  answer(500, 0, `{"message":"${"x".repeat(400)} acc_token=s3cret"}`), answer(504, 0, bytes([0xff, 0xfe, 0xd0])), answer(302, 0, ""), answer(404, 0, '[{"message":1}]'), answer(408, 0, "null"),
]);
const subscribe = (data) => `{"event":"pusher:subscribe","data":${data}}`;
const channelName = (name) => subscribe(JSON.stringify({ channel: name }));
const pusherEvents = [
  ...fixture("pusher/client.v7.jsonl").toString().trim().split("\n"),
  ...["private-entities.procedure", "private-cache-entity.procedure.a_1", "entities.procedure", "private-inbox.olha", "presence-cache-x", "private-encrypted-cache-x", "#server-to-user-\n", "a b"].map(channelName),
  subscribe('"{\\"channel\\":\\"x\\"}"'), subscribe("null"), subscribe('"\\ud800"'), subscribe('{"channel":"x","auth":5}'), subscribe('{"channel":"x","channel":"y"}'),
  subscribe('{"channel":"presence-x","channel_data":"{\\"user_id\\":123456789012345678901,\\"user_info\\":{\\"n\\": 1.50}}"}'),
  `{"event":"pusher:signin","data":{"auth":"k:a","user_data":${JSON.stringify(JSON.stringify({ id: "a", watchlist: Array.from({ length: 101 }, (_, n) => `u${n}`) }))}}}`,
  '{"event":"client-x","channel":"private-x","data":null}', '{"event":"client-x","channel":"private-x"}', '{"event":"client-x"}', '{"event":"client-\\u0000","channel":"\\"","data":1e999}',
  '{"event":"hello","channel":"x","data":1}', '{"event":"pusher:later"}', '{"event":"pusher_internal:member_added"}', '["pusher:ping"]', '{"event":5}', "null", "",
  `{"event":"client-${"x".repeat(200)}","channel":"x"}`, `{"event":"client-x","channel":"x","data":${"[".repeat(300)}${"]".repeat(300)}}`,
];
seeds("pusher_events", pusherEvents.map((frame) => bytes([128], frame)));

const body = '{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}';
const signed = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f&auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
const event = (rest) => `{"name":"a","data":"x",${rest}}`;
seeds("pusher_http", [
  ["/apps/3/events", signed, body], ["/apps/4/events", signed, body], ["/apps/3/events", signed.split("&").reverse().join("&"), body],
  ["/apps/3/events", signed.replace("auth_key", "AUTH%5fKEY"), body], ["/apps/3/events", signed + "&info=user_count%2Csubscription_count", body], ["/apps/3/events", signed, ""],
  ["/apps/3/events", signed + "&Auth_Key=x", body], ["/apps/3/channels", "filter_by_prefix=presence-&info=user_count", ""], ["/", "filter_by_prefix=%d0%b4+%2B%26", "\u0000\n"],
  ["", "a=%", ""], ["", "a=%ff", ""], ["", "&&=&", "[]"], ["", "", `{"batch":[${event('"channel":"x","info":"user_count"')},${event('"channel":"presence-x","socket_id":"1.2"')}]}`],
  ["", "", event('"channels":["a","a","private-b","#server-to-user-7"]')], ["", "", event('"channel":"private-entities.procedure"')], ["", "", event('"channels":["private-encrypted-a","b"]')],
  ["", "", '{"name":"pusher:error","channel":"x","data":""}'], ["", "", '{"name":"a","channel":"x","data":{"n": 1.50}}'], ["", "", `{"name":"a","channel":"x","data":"${"x".repeat(65)}"}`],
  ["", "", '{"batch":[]}'], ["", "", `{"name":"a","channel":"x","data":${"[".repeat(300)}${"]".repeat(300)}}`],
].map((lines) => lines.join("\n")));

const nots = (depth, inner) => (depth ? `{"not":${nots(depth - 1, inner)}}` : inner);
const filterDoc = '{"status":"active","value":{"amount":904.240},"owner":null,"flag":true,"at":"2026-11-26T12:00:00+02:00","a":"ї"}';
seeds("filters", [
  '{}', '{"status":"active"}', '{"status":["active","complete"],"value.amount":{"gte":900,"lt":904.24}}', '{"owner":null}', '{"owner":{"ne":null}}', '{"flag":true}', '{"flag":{"lt":true}}',
  '{"or":[{"owner":null},{"not":{"region":["30","32"]}}],"status":{"prefix":"act"}}', '{"at":{"gt":{"time":"2026-11-26T10:00:00Z"}}}', '{"at":{"in":[{"time":"2026-11-26T10:00:00Z"}]}}', '{"a":{"in":[]}}', '{"a":{"in":["x",1]}}',
  '{"and":[]}', '{"a":1,"a":2}', '{"a":{"eq":1e400}}', `{"a":{"eq":${"9".repeat(64)}}}`, `{"a":{"eq":${"9".repeat(65)}}}`, nots(8, '{"a":1}'), nots(8, '{"a":1,"b":2}'), nots(7, '{"a":1,"b":2}'), nots(9, '{"a":1}'),
  `{"or":[${Array.from({ length: 63 }, (_, n) => `{"f${n}":${n}}`).join(",")}]}`, `{${Array.from({ length: 64 }, (_, n) => `"f${n}":${n}`).join(",")}}`, `{"a":[${Array.from({ length: 100 }, (_, n) => `"${n}"`).join(",")}]}`,
  `{${Array.from({ length: 60 }, (_, n) => `"${"x".repeat(250)}${n}":${n}`).join(",")}}`, '{"a\\u0000":1}', '{"a":"\\ud800"}', '{"a":{"null":true}}', '{"and":[{"a":1},{"a":1},{"b":2}]}', '[]', '"x"', '{"a":[[1]]}',
  '{"key":"a","cmp":"eq","val":"ї"}', '{"op":"and","nodes":[{"key":"a","cmp":"in","vals":["1","2"]},{"op":"not","nodes":[{"key":"b","cmp":"ex"}]}]}', '{"op":"or","nodes":[{"key":"a","cmp":"gte","val":"-1.50"}]}',
  '{"op":"not","nodes":[]}', '{"op":"xor","nodes":[]}', '{"key":"","cmp":"eq","val":"x"}', `{"key":"a","cmp":"nin","vals":[${Array.from({ length: 128 }, () => '"x"').join(",")}]}`, `{"key":"a","cmp":"lt","val":"${"9".repeat(400)}"}`,
].flatMap((filter) => [filter, `${filter}\n${filterDoc}`]));

const maskDoc = '{ "phone" : "+380" ,"v":904.240,"contacts":[{"email":1,"n":2},[{"email":3}],7,"email"],"p\\u0068one":2,"a/b":{"~c":1,"d":[]},"0":{"b":1},"phone":{"a":[1,2]},"deep":{"er":{"a":[{"b":null}]}}}';
seeds("masks", [
  "phone", "contacts.email", "phone|contacts.email|/a~1b/~0c", "deep.er.a.b", "deep", "v|phone|contacts|a|deep|0", "/odd.name", "a.0.b", "/~2", "", ".", Array.from({ length: 64 }, (_, n) => `f${n}`).join("|"), Array(16).fill("a").join("."),
].flatMap((paths) => [`${paths}\n${maskDoc}`, `${paths}\n[${maskDoc},${maskDoc}]`]).concat([
  'a\n{"a":1}', 'a\n{"a":1,"a":2,"b":3,"a":4}', 'a\n{"b":1,,"a":2}', 'a\n{"b":[}],"a":2}', 'a\n{"\\ud800":1,"a":2}', 'a\n{"b":"\\ud800","a":2}', 'a\n{"a"', 'a\n', "a\nnull", 'a.b\n{"a":{"b":1},"b":{"a":1}}', 'a\n{"b":tru,"a":1}', 'a\n {"b" 1,"a":1}',
  `a\n${"[".repeat(129)}{"a":1}${"]".repeat(129)}`, `a\n${"[".repeat(126)}{"a":1}${"]".repeat(126)}`, `a\n{"b":${"[".repeat(200)}${"]".repeat(200)},"a":1}`, 'a\n{"b":"\\"a\\":","a":1}', 'a\n{"A":1,"\\u0061":2}',
]));

const base64 = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
const jws = (header, payload, signature = "AAAA") => [base64(header), base64(payload), signature].join(".");
const point = (size) => Buffer.alloc(size, 3).toString("base64url");
const jwks = (...keys) => JSON.stringify({ keys });
const rsaKey = { kty: "RSA", kid: "r", n: Buffer.alloc(256, 0x80).toString("base64url"), e: "AQAB" };
const ecKey = { kty: "EC", crv: "P-256", kid: "a", x: point(32), y: point(32) };
seeds("jose", [
  jws({ alg: "HS256", typ: "JWT", kid: "k1" }, { sub: "olha", iss: "me", exp: 1700000000 }), jws({ alg: "none" }, {}), jws({ alg: "EdDSA" }, { iss: "https://issuer.example/ї" }), jws({ alg: "Ed25519" }, {}), jws({ alg: "RS256", crit: ["exp"] }, {}),
  jws({ alg: "ES512", kid: "k".repeat(256) }, {}), jws({ alg: "ES512", kid: "k".repeat(257) }, {}), jws('{"alg":"HS256","alg":"none"}', {}), jws('{"alg":5}', {}), jws("[]", {}), jws('{"alg":"\\u0048S256"}', '{"iss":"\\ud800"}'), jws({ alg: "PS384", jwk: ecKey, jku: "http://evil" }, "x", "A".repeat(1366)),
  jws({ alg: "HS256" }, {}, "A".repeat(1367)), jws({ alg: "HS256" }, {}, "A=="), "a.b", "a.b.c.d", "...", "", `${jws({ alg: "HS256" }, {})}\n${jwks(ecKey)}`, `${jws({ alg: "HS512" }, {})}.`, jws({ alg: "HS256" }, "x".repeat(6200)),
  jwks(rsaKey), jwks(ecKey), jwks({ kty: "EC", crv: "P-384", x: point(48), y: point(48) }, { kty: "EC", crv: "P-521", x: point(66), y: point(66), alg: "ES512" }), jwks({ kty: "OKP", crv: "Ed25519", x: point(32), use: "sig", key_ops: ["verify"] }),
  jwks({ ...ecKey, use: "enc" }, rsaKey), jwks({ ...ecKey, x: point(31) }), jwks({ ...rsaKey, e: "AQ" }), jwks({ ...rsaKey, n: `AA${rsaKey.n}` }), jwks({ ...rsaKey, n: point(128) }), jwks({ kty: "oct", k: point(32) }), jwks({ ...rsaKey, alg: "RS256" }, { ...rsaKey, alg: "RSA-OAEP" }),
  jwks(...Array(100).fill(ecKey)), jwks(...Array(101).fill({})), '{"keys":{}}', '{"keys":[1,null,"x"]}', "[]", `{"keys":[${"[".repeat(300)}`,
]);

const wordInfo = '{"user":"ї","client":"1.2","conn_info":{"n": 1.0},"chan_info":{"user_info":[]}}';
seeds("words", [
  `{"join":{"info":${wordInfo},"first":true}}`, `{"leave":{"info":${wordInfo},"last":true}}`, `{"join":{"info":${wordInfo}}}`, '{"join":{"info":{"user":"","client":""},"first":true}}', `{"leave":{"info":{"user":"${"u".repeat(300)}","client":"c"},"last":true}}`,
  '{"event":{"event":"client-x","data":{"a": 1.50},"user":"u","except":"1.2"}}', '{"event":{"event":"client-x","data":"\\ud800"}}', '{"event":{"event":"\\u0000"}}', '{"count":{"subscribers":18446744073709551615}}', '{"count":{"subscribers":-1}}', '{"join":{},"leave":{}}', '{"later":{}}', "{}", "[]",
  '{"disconnect":{"whose":{"user":"u","client":"c","except":["d"]},"code":3503,"reason":"r"}}', '{"unsubscribe":{"whose":{},"channel":"x","code":2000,"reason":""}}', '{"subscribe":{"whose":{"user":"u"},"channel":"x"}}', '{"refresh":{"whose":{},"expire_at":-9223372036854775808}}', '{"recheck":{"whose":{}}}',
  '{"emulate":{"session":"s","data":"{}\\n"}}', '{"survey":{"id":"i","from":"n","whose":{"user":"u"},"limit":5}}', '{"answer":{"id":"i","node":"n","connections":[{"client":"c","user":"u","wire":"w","age_seconds":1,"queue_bytes":2,"channels":["x"]}],"more":true,"silent":[1,4294967295]}}',
  '{"trace":{"id":"i","from":"n","by":"o","target":{"user":"u"},"seconds":9}}', '{"trace":{"id":"i","from":"n","by":"o","target":{"channel":"x"},"seconds":4294967296}}', '{"traced":{"id":"i","node":"n","before":7,"lines":[{"event":"later","n": 1.0},[],"x"]}}', '{"traced":{"id":"i","node":"n","before":7,"refused":true}}', '{"untrace":{"id":"i"}}',
  `{"traced":{"id":"i","node":"n","before":0,"lines":[${"[".repeat(200)}${"]".repeat(200)}]}}`, '{"traced":{"id":"i","node":"n","before":0,"lines":{}}}',
]);

seeds("edges", [
  '{"session":"a secret name","node":"n","data":"{\\"id\\":1}\\n{}"}', '{"session":"s","node":"n","data":{}}', '{"session":"s"}', bytes([10, 1, 110, 18, 9], "secretive", [26, 2, 0, 255]), bytes([10, 200, 1]), bytes([26, 0]), bytes(Array(11).fill(0xff)),
  "protocol=7&client=js&version=8.6.0&flash=false", "protocol=4", "protocol=+7", "protocol=7&protocol=5", "version=%20&protocol=7", `version=${"1".repeat(65)}`, "client=x&x&protocol=5", "protocol=",
  "123.456", "18446744073709551615.1", "1.", ".1", "1.2.3", "a user \u0457", "a\u0000b", "AAEC", "AA==", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-дзвіндзвіндзвіндзвін", '{"n": 1.50}', '"a text"', '"\\ud800"', "\u2028 \\ \"", "1e999", "",
]);
