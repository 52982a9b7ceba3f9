// Exchanges of a page with its own service, by fetch. Chromium repeats by itself.
const pattern = (id, length) => (id + ".").repeat(length / (id.length + 1) + 1).slice(0, length);

async function exchange(base, one) {
  const outcome = { id: one.id, began: Date.now(), untold: 0, gave_up: false, error: "" };
  const attempt = { status: null, mark: null, body: "none", length: 0, made: false };
  try {
    const headers = { "x-exchange": one.id };
    const body = one.framing === "none" ? undefined : pattern(one.id, one.length);
    const signal = AbortSignal.timeout(20000);
    const answer = await fetch(base + "/x/e", { method: one.method, headers, body, signal });
    attempt.status = answer.status;
    attempt.mark = answer.headers.get("x-exchange");
    attempt.body = "cut";
    const text = await answer.text();
    attempt.body = "whole";
    attempt.length = text.length;
    attempt.made = text === pattern(one.id, text.length);
  } catch (error) {
    outcome.gave_up = error.name === "TimeoutError";
    outcome.error = String(error);
  }
  outcome.ended = Date.now();
  outcome.attempts = [attempt];
  return outcome;
}

// Half of them at once, as pages do, the others one by one on what is kept.
async function perform(base, all, atOnce) {
  if (atOnce) return await Promise.all(all.map((one) => exchange(base, one)));
  const outcomes = [];
  for (const one of all) outcomes.push(await exchange(base, one));
  return outcomes;
}
