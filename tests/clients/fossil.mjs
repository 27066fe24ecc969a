// The hub's deltas, read by others: npm `fossil-delta`, which the hub's authors did not write, applies each of them, as bytes (the
// Protobuf form) and out of the JSON of a push, where it is a string. node fossil.mjs --pairs FILE, one JSON object a line:
// `base`, `target` (texts), `delta` (base64), `frame` (what a client of the JSON form is sent).
// Prints one JSON report; the Rust test that starts it judges.
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { applyDelta, createDelta } from 'fossil-delta';

const { pairs } = parseArgs({ options: { pairs: { type: 'string' } } }).values;
const encoder = new TextEncoder();
const report = { pairs: 0, patches: 0, traps: 0, wrong: [] };

const same = (a, b) => Buffer.compare(a, b) === 0;
/** Says what is wrong, or nothing. */
function fault(what, work) {
  try {
    return work() ? [] : [what];
  } catch (error) {
    return [`${what}: ${error.message}`];
  }
}
/** Whether bytes survive being a JSON string. */
const isText = (bytes) => same(encoder.encode(JSON.parse(JSON.stringify(new TextDecoder().decode(bytes)))), bytes);

for (const line of readFileSync(pairs, 'utf8').split('\n').filter(Boolean)) {
  const { base: before, target: after, delta, frame } = JSON.parse(line);
  const [base, target] = [before, after].map((text) => encoder.encode(text));
  const { data, delta: patched } = JSON.parse(frame).push.pub;
  const bytes = new Uint8Array(Buffer.from(delta, 'base64'));
  const faults = [
    ...fault('bytes', () => same(applyDelta(base, bytes), target)),
    ...fault('json', () => (patched ? same(applyDelta(base, encoder.encode(data)), target) : data === after)),
    ...fault('a patch that is no shorter', () => !patched || bytes.length < target.length),
  ];
  if (faults.length) report.wrong.push({ faults, before, after });
  report.pairs += 1;
  report.patches += patched ? 1 : 0;
  // What a maker of deltas that knows only bytes would have broken: without such pairs this proves nothing.
  report.traps += isText(createDelta(base, target)) ? 0 : 1;
}
report.wrong = report.wrong.slice(0, 5);
process.stdout.write(`${JSON.stringify(report)}\n`);
