// Talking to the server: JSON in and out, problems as errors, streams of server-sent events.

/** What the server said is wrong, in words for people. `status` is 0 where it was not reached. */
export class Problem extends Error {
  constructor(status, detail, reference = null, retryAfter = null) {
    super(detail);
    Object.assign(this, { name: "Problem", status, detail, reference, retryAfter });
  }
}

const UNREACHED = "The server cannot be reached. Check your connection and try again.";

async function problemOf(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // A proxy's page of HTML, say: the status is all there is.
  }
  const detail = body.detail || body.title || `The server answered with ${response.status}. Please try again.`;
  return new Problem(response.status, detail, body.reference ?? null, response.headers.get("retry-after"));
}

async function send(method, path, body, { signal, headers = {} } = {}) {
  const options = { method, signal, headers: { ...headers } };
  if (method !== "GET") {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body ?? {});
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, UNREACHED);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function exchange(method, path, body, options) {
  const response = await send(method, path, body, options);
  return response.status === 204 ? null : response.json();
}

export const get = (path, options) => exchange("GET", path, undefined, options);
export const post = (path, body, options) => exchange("POST", path, body, options);
export const put = (path, body, options) => exchange("PUT", path, body, options);
export const patch = (path, body, options) => exchange("PATCH", path, body, options);
export const remove = (path, options) => exchange("DELETE", path, undefined, options);

/**
 * The server-sent events of a path as {event, data, id}, from POST where there is a body.
 * `lastEventId` asks for those after it. Ends with the connection; a lost one raises Problem 0.
 */
export async function* stream(path, body, { lastEventId = 0, signal } = {}) {
  const headers = lastEventId ? { "Last-Event-ID": String(lastEventId) } : {};
  const response = await send(body === undefined ? "GET" : "POST", path, body, { signal, headers });
  if (response.status === 204) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (waiting + value).split("\n\n");
      waiting = blocks.pop();
      for (const block of blocks) {
        const event = eventOf(block);
        if (event) yield event;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    throw new Problem(0, UNREACHED);
  } finally {
    reader.cancel().catch(() => {});
  }
}

function eventOf(block) {
  const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
  if (!fields.event || !fields.data) return null;
  return { event: fields.event, data: JSON.parse(fields.data), id: Number(fields.id) };
}
