// Exchanges by Node's own clients: `node client.mjs fetch|http BASE`; a line of JSON for each list.
import http from "node:http";
import { createInterface } from "node:readline";

const [how, base] = process.argv.slice(2);
const pattern = (id, length) => (id + ".").repeat(length / (id.length + 1) + 1).slice(0, length);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const blank = () => ({ status: null, mark: null, body: "none", length: 0, made: false });
const agent = new http.Agent({ keepAlive: true, maxSockets: 2 });

async function* pieces(one) {
  const body = Buffer.from(pattern(one.id, one.length));
  const step = Math.max(1, Math.ceil(body.length / 5));
  for (let at = 0; at < body.length; at += step) {
    if (one.slow) await sleep(10);
    yield body.subarray(at, at + step);
  }
}

function take(attempt, one, text) {
  attempt.body = "whole";
  attempt.length = text.length;
  attempt.made = text === pattern(one.id, text.length);
}

async function byFetch(one, outcome) {
  const attempt = blank();
  outcome.attempts.push(attempt);
  const options = { method: one.method, headers: { "x-exchange": one.id } };
  options.signal = AbortSignal.timeout(20000);
  if (one.framing === "length") options.body = pattern(one.id, one.length);
  if (one.framing === "chunked") {
    options.body = ReadableStream.from(pieces(one));
    options.duplex = "half";
  }
  const answer = await fetch(base + "/x/e", options);
  attempt.status = answer.status;
  attempt.mark = answer.headers.get("x-exchange");
  attempt.body = "cut";
  const text = await answer.text();
  // At FIN undici takes any answer with `Connection: close` and no length for whole, also one whose
  // last chunk is missing; from here it cannot be told.
  const closes = answer.headers.get("connection") === "close";
  if (!closes || answer.headers.has("content-length")) take(attempt, one, text);
}

function once(one, attempt) {
  return new Promise((done, fail) => {
    const headers = { "x-exchange": one.id };
    if (one.framing === "length") headers["content-length"] = one.length;
    if (one.framing === "chunked") headers["transfer-encoding"] = "chunked";
    const options = { method: one.method, headers, agent, timeout: 20000 };
    const request = http.request(base + "/x/e", options, (answer) => {
      attempt.status = answer.statusCode;
      attempt.mark = answer.headers["x-exchange"] ?? null;
      attempt.body = "cut";
      let text = "";
      answer.setEncoding("latin1");
      answer.on("data", (some) => (text += some));
      answer.on("error", fail);
      answer.on("end", () => {
        take(attempt, one, text);
        done();
      });
    });
    request.on("timeout", () => request.destroy(new Error("timeout")));
    request.on("error", (error) => fail(Object.assign(error, { reused: request.reusedSocket })));
    if (one.framing === "chunked") {
      (async () => {
        for await (const piece of pieces(one)) request.write(piece);
        request.end();
      })();
    } else {
      request.end(pattern(one.id, one.length));
    }
  });
}

async function byHttp(one, outcome) {
  for (let turn = 0; ; turn++) {
    const attempt = blank();
    outcome.attempts.push(attempt);
    try {
      return await once(one, attempt);
    } catch (error) {
      // As Node's manual does: the kept connection had ended (http, request.reusedSocket).
      const isIdle = error.reused && error.code === "ECONNRESET" && attempt.status === null;
      if (!isIdle || turn > 1) throw error;
    }
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const outcomes = [];
  for (const one of JSON.parse(line)) {
    const outcome = { id: one.id, began: Date.now(), attempts: [], untold: 0, gave_up: false };
    outcome.error = "";
    try {
      await (how === "fetch" ? byFetch(one, outcome) : byHttp(one, outcome));
    } catch (error) {
      outcome.gave_up = error.name === "TimeoutError" || error.message === "timeout";
      outcome.error = `${error} ${error.cause ?? ""}`;
    }
    outcome.ended = Date.now();
    outcomes.push(outcome);
    if (outcome.attempts.at(-1).mark === null) await sleep(20);
  }
  console.log(JSON.stringify(outcomes));
}
