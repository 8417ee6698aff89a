// The service's API, and what its failures are called for people.

import { keyHeaders } from "./key.js";

export class ApiFailure extends Error {
  constructor(status, error) {
    super(error?.message ?? "");
    this.status = status;
    this.code = error?.code ?? "";
  }
}

let keyEnded = () => {};

// What is called when the service does not take our key any more.
export function whenKeyEnds(call) {
  keyEnded = call;
}

export function get(path, signal) {
  return request(path, { headers: {}, signal });
}

export function post(path, body, signal, more = {}) {
  const headers = { "content-type": "application/json", ...more };
  return request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

export function put(path, body) {
  return request(path, { method: "PUT", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}

export function remove(path) {
  return request(path, { method: "DELETE", headers: {} });
}

async function request(path, options) {
  const response = await fetch(path, { ...options, headers: { ...options.headers, ...keyHeaders() } });
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) keyEnded();
  throw new ApiFailure(response.status, answer.error);
}

// Yields the parsed events of a streamed answer; throws ApiFailure for an error event or an early end.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiFailure(0, { code: "ended_early" });
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const data = part.slice(6);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiFailure(0, event.error);
      yield event;
    }
  }
}

// What went wrong, for people.
export function inWords(failure) {
  if (!(failure instanceof ApiFailure)) return "The service cannot be reached. Check your connection and try again.";
  if (failure.code === "context_length_exceeded") return "This conversation is too long for the model. Start a new one to go on.";
  if (failure.status === 401) return "Your key was no longer accepted.";
  if (failure.status === 413) return "This message is too long. Shorten it and try again.";
  if (failure.status === 503) return "The model is not available right now. It is usually back within a minute.";
  if (failure.status === 429) return "That was a little fast. Wait a moment and try again.";
  if (failure.status === 0) return "The answer broke off. You can try again.";
  if (failure.status >= 500) return "Something went wrong on our side. Try again in a moment.";
  return failure.message || "The message could not be answered.";
}
