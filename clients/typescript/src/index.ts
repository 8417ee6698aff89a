/**
 * Feedback on a hearken service's answers, beside the OpenAI client:
 *
 *     const hearken = new Hearken({ baseURL: "https://chat.example.com/v1", apiKey: "hk-.." });
 *     await hearken.feedback(answer).down({ reason: "incomplete", user: "ada" });
 */

import { ask, type Service } from "./http.js";
import { idOf, target, tokenOf, vote } from "./votes.js";
import type { Answer, Common, Kept, Preferred, Vote } from "./votes.js";

export { FeedbackError } from "./http.js";
export type { Answer, Common, Kept, Kind, Preferred, Vote } from "./votes.js";

export interface Options {
  /** The service's URL, as the OpenAI client has it; without it the variable HEARKEN_BASE_URL. */
  baseURL?: string | undefined;
  /** A key with the scope `feedback`, else the variable HEARKEN_API_KEY. In a browser none: answers have tokens. */
  apiKey?: string | undefined;
  /** How often to send again what may succeed later; 3 without it. */
  maxRetries?: number;
  /** Milliseconds for each try; 10,000 without it. */
  timeout?: number;
  /** Another `fetch`. */
  fetch?: typeof fetch;
}

/** A vote that is durable; `token` is the one that it was sent with, if it was. */
export interface Accepted {
  id: string;
  status: string;
  token?: string;
}

/** What became of a vote. */
export interface Receipt {
  id: string;
  object: "feedback.receipt";
  kind: string;
  status: string;
  reason: string | null;
  sentence: string;
  policy: { version: string; status: string; since: number } | null;
  created: number;
  updated: number;
  revisions: number;
  targets: Record<string, unknown>[];
  updates: Record<string, unknown>[];
  policies: { version: string; status: string; since: number }[];
}

/** What became of one vote of a batch: an id, or an error. */
export interface Result {
  index: number;
  status: number;
  id?: string;
  error?: { message: string; type: string; param: string | null; code: string | null };
}

const MOST_VOTES = 1000; // of one request
const PATH = "/v1/feedback";

/** Sends votes, and asks what became of them. Its methods reject with a FeedbackError when the service refuses. */
export class Hearken {
  readonly #service: Service;

  /** Throws a TypeError where no URL is known. */
  constructor(options: Options = {}) {
    const url = options.baseURL ?? variable("HEARKEN_BASE_URL") ?? "";
    if (!/^https?:\/\//.test(url)) {
      throw new TypeError(`baseURL is "${url}"; give the service's URL, like https://chat.example.com/v1`);
    }
    this.#service = {
      url: url.replace(/\/+$/, "").replace(/\/v1$/, ""),
      apiKey: options.apiKey ?? variable("HEARKEN_API_KEY"),
      maxRetries: options.maxRetries ?? 3,
      timeout: options.timeout ?? 10_000,
      fetch: options.fetch ?? ((input, init) => fetch(input, init)),
    };
  }

  /** What can be said about an answer. Throws a TypeError for what has no id. */
  feedback(answer: Answer, about: { choice?: number; user?: string } = {}): Feedback {
    return new Feedback(this, target(answer, about.choice), tokenOf(answer), about.user);
  }

  /** Which of two answers is better; `presented`: the order in which they were shown. */
  compare(a: Answer, b: Answer, preferred: Preferred, common?: Compared): Promise<Accepted> {
    return this.send(vote("comparison", { targets: [target(a), target(b)], preferred }, common));
  }

  /** Answers in order, the best first; those in an array of their own are equally good. */
  rank(groups: (Answer | Answer[])[], common?: Common): Promise<Accepted> {
    const named = groups.map((group) => (Array.isArray(group) ? group : [group]).map((each) => target(each)));
    return this.send(vote("ranking", { groups: named }, common));
  }

  /** Send one vote; resolves when it is durable. */
  async send(one: Vote): Promise<Accepted> {
    if (this.#service.apiKey !== undefined || one.token === undefined) {
      return (await ask(this.#service, "POST", PATH, one)) as Accepted;
    }
    const { token, ...rest } = one; // as a header, by which a page of any origin may read the answer
    return { ...((await ask(this.#service, "POST", PATH, rest, token)) as Accepted), token };
  }

  /** Send many votes; a result for each, in order. When it rejects, send all again: what is there counts once. */
  async sendMany(votes: Vote[]): Promise<Result[]> {
    const results: Result[] = [];
    for (let start = 0; start < votes.length; start += MOST_VOTES) {
      const piece = votes.slice(start, start + MOST_VOTES);
      const answer = (await ask(this.#service, "POST", PATH, piece)) as { results: Result[] };
      results.push(...answer.results.map((each) => ({ ...each, index: each.index + start })));
    }
    return results;
  }

  /** What became of a vote. */
  async receipt(of: Accepted | string): Promise<Receipt> {
    return (await ask(this.#service, "GET", path(of), undefined, token(of))) as Receipt;
  }

  /** Take a vote back. `user`: who voted; needed for a vote that was sent with another key. */
  async retract(of: Accepted | string, user?: string): Promise<void> {
    const query = user === undefined ? "" : `?user=${encodeURIComponent(user)}`;
    await ask(this.#service, "DELETE", path(of) + query, undefined, token(of));
  }
}

type Compared = Common & { presented?: ["a", "b"] | ["b", "a"] };

/**
 * Sends votes on one answer or episode. A vote without `user` and `source` takes the answer's feedback token
 * along, if it has one: then it is of the user whom the answer was for.
 */
export class Feedback {
  readonly #client: Hearken;
  readonly #about: Record<string, unknown>;
  readonly #token: string | undefined;
  readonly #user: string | undefined;

  /** Made by `Hearken.feedback`. */
  constructor(client: Hearken, about: Record<string, unknown>, token: string | undefined, user: string | undefined) {
    this.#client = client;
    this.#about = about;
    this.#token = token;
    this.#user = user;
  }

  /** A thumb up. */
  up(common?: Common): Promise<Accepted> {
    return this.#send(vote("thumbs", { ...this.#about, value: "up" }, common));
  }

  /** A thumb down. */
  down(common?: Common): Promise<Accepted> {
    return this.#send(vote("thumbs", { ...this.#about, value: "down" }, common));
  }

  /** A number on a scale, [lowest, highest], which is [1, 5] without it. */
  rate(value: number, common?: Common & { scale?: [number, number] }): Promise<Accepted> {
    return this.#send(vote("rating", { ...this.#about, value }, common));
  }

  /** What the answer should have been. */
  correct(text: string, common?: Common): Promise<Accepted> {
    return this.#send(vote("correction", { ...this.#about, text }, common));
  }

  /** Words about it. */
  comment(text: string, common?: Omit<Common, "comment">): Promise<Accepted> {
    return this.#send(vote("comment", { ...this.#about, text }, common));
  }

  /** An outcome that was measured later. */
  metric(
    name: string,
    value: number | boolean,
    common?: Common & { range?: [number, number]; direction?: "higher" | "lower" },
  ): Promise<Accepted> {
    return this.#send(vote("metric", { ...this.#about, name, value }, common));
  }

  /** What somebody did with it, as "copied"; `value` false: they were shown it, and did not. */
  signal(name: string, value: number | boolean = true, common?: Common): Promise<Accepted> {
    return this.#send(vote("signal", { ...this.#about, name, value }, common));
  }

  /** It was generated anew in place of `old`; `kept`: which one the person went on with, once that is known. */
  regenerated(old: Answer, kept?: Kept, common?: Common): Promise<Accepted> {
    const linked = { completion_id: idOf(this.#about), regeneration_of: idOf(old) };
    const known = kept === undefined ? {} : { kept };
    return this.#send(vote("signal", { name: "regenerated", ...linked, ...known }, common), false);
  }

  /** It is better than another answer. */
  prefer(over: Answer, common?: Compared): Promise<Accepted> {
    return this.compare(over, "a", common);
  }

  /** It, "a", against another answer, "b". */
  compare(other: Answer, preferred: Preferred, common?: Compared): Promise<Accepted> {
    const targets = [this.#about, target(other)];
    return this.#send(vote("comparison", { targets, preferred }, common), false);
  }

  /** `alone`: whether the vote is about this answer alone, as a token is. */
  #send(one: Vote, alone = true): Promise<Accepted> {
    if (this.#user !== undefined) one.user ??= this.#user;
    const named = one.user !== undefined || one.source !== undefined || one.token !== undefined;
    if (alone && !named && this.#token !== undefined) one.token = this.#token;
    return this.#client.send(one);
  }
}

function path(of: Accepted | string): string {
  return `${PATH}/${encodeURIComponent(typeof of === "string" ? of : of.id)}`;
}

function token(of: Accepted | string): string | undefined {
  return typeof of === "string" ? undefined : of.token;
}

/** A variable of the environment, where there is one. */
function variable(name: string): string | undefined {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return process?.env?.[name];
}
