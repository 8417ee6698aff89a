/** A product's thumbs: ask for a user, and pass on what the user thought of the answer. */

import { FeedbackError, Hearken } from "hearken";

const baseURL = "http://localhost:8000/v1";
const hearken = new Hearken({ baseURL });

const asked = await fetch(`${baseURL}/chat/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({
    model: "hearken",
    user: "ada",
    messages: [{ role: "user", content: "Where is my parcel?" }],
  }),
});
const answer = (await asked.json()) as { id: string };

const vote = await hearken.feedback(answer).down({ reason: "incomplete", comment: "No date." });
console.log((await hearken.receipt(vote)).sentence);
await hearken.feedback(answer).correct("It arrives on Monday.", { user: "ada" });
await hearken.retract(vote);
try {
  await hearken.feedback("chatcmpl-unknown").up();
} catch (error) {
  if (!(error instanceof FeedbackError)) throw error;
  console.log(error.status, error.message);
}
