"""Centrifugo's own Python library (PyPI `cent`), unmodified, against the server API: `server-api.py URL KEY` prints what it made of
the answers as JSON. What a library cannot read ends in an exception."""

import json
import sys

import cent

_, url, key = sys.argv
client = cent.Client(f"{url}/api", key)
of = {"channel": "chat.1"}
publish = cent.PublishRequest(**of, data={"n": 1}, tags={"lot": "7"}, idempotency_key="once")
first, again = client.publish(publish), client.publish(publish)
told = client.broadcast(cent.BroadcastRequest(channels=["chat.1", "chat.2", "not a name"], data=2)).responses
many = [cent.PublishRequest(**of, data=3), cent.HistoryRequest(**of, limit=10), cent.PresenceStatsRequest(**of)]
published, history, stats = client.batch(cent.BatchRequest(requests=many)).replies
page = client.history(cent.HistoryRequest(**of, limit=1, reverse=True))
members = client.presence(cent.PresenceRequest(**of)).presence
channels = sorted(client.channels(cent.ChannelsRequest(pattern="chat.*")).channels)
client.history_remove(cent.HistoryRemoveRequest(**of))
to = {"user": "viewer-1"}
client.subscribe(cent.SubscribeRequest(**of, **to))
client.unsubscribe(cent.UnsubscribeRequest(**of, **to))
client.refresh(cent.RefreshRequest(**to, expired=True))
client.disconnect(cent.DisconnectRequest(**to))
try:
    client.publish(cent.PublishRequest(channel="not a name", data=1))
    refused = 0
except cent.CentApiResponseError as error:
    refused = error.code
print(json.dumps({
    "same": first == again,
    "offset": first.offset,
    "told": [one.error.code if one.error else one.result.offset for one in told],
    "published": published.offset,
    "history": [one.data for one in history.publications],
    "tags": history.publications[0].tags,
    "clients": stats.num_clients,
    "members": len(members),
    "latest": [page.publications[0].data, page.publications[0].offset],
    "channels": channels,
    "nodes": len(client.info(cent.InfoRequest()).nodes),
    "refused": refused,
}))
