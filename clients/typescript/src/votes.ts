/** What a vote may say, and what it is about: objects as the service's API has them. */

export type Preferred = "a" | "b" | "tie" | "both_bad";
export type Kept = "new" | "old";

/** What a vote is about: an id, what a chat client answered (or a chunk of its stream), or an id of your own. */
export type Answer = string | object;

/** Fields that every vote may have; docs/feedback.md of the service says what each means. */
export interface Common {
  user?: string;
  reason?: string;
  reasons?: string[];
  tags?: string[];
  comment?: string;
  source?: "end_user" | "annotator" | "app" | "model" | "import";
  weight?: number;
  occurred_at?: number | string;
  metadata?: Record<string, string>;
  dry_run?: boolean;
  from_now_on?: boolean;
  idempotency_key?: string;
  token?: string;
}

export type Kind =
  | "thumbs"
  | "rating"
  | "comparison"
  | "ranking"
  | "correction"
  | "comment"
  | "metric"
  | "signal";

/** A vote as it is sent. */
export interface Vote extends Omit<Common, "reason"> {
  kind: Kind;
  [field: string]: unknown;
}

/** The fields that name what a vote is about. Throws a TypeError for what names nothing. */
export function target(about: Answer, choice?: number): Record<string, unknown> {
  const named =
    typeof about === "object" && ("completion_id" in about || "external_id" in about || "episode_id" in about)
      ? { ...about }
      : { completion_id: idOf(about) };
  return choice === undefined ? named : { ...named, choice };
}

/** The id of an answer, of a chunk of it, or of an event of a stream that holds it. Throws a TypeError. */
export function idOf(answer: Answer): string {
  if (typeof answer === "string") return answer;
  const held = ["response_metadata", "response", "message"].map((name) => field(field(answer, name), "id"));
  for (const found of [field(answer, "completion_id"), ...held, field(answer, "id")]) {
    if (typeof found === "string" && found !== "") return found;
  }
  throw new TypeError("a vote is about an answer: give its id, or an answer or a stream's last chunk that has one");
}

/** The feedback token that an answer brought, while it is good: a vote with it is of whom the answer was for. */
export function tokenOf(answer: Answer): string | undefined {
  for (const holder of [answer, field(answer, "response"), field(answer, "message")]) {
    const extension = field(holder, "hearken");
    const token = field(extension, "feedback_token");
    const until = field(extension, "feedback_token_expires_at");
    const expired = typeof until === "number" && until * 1000 <= Date.now();
    if (typeof token === "string" && !expired) return token;
  }
  return undefined;
}

/** A vote of a kind; one `reason` is one of its `reasons`. */
export function vote(kind: Kind, fields: Record<string, unknown>, common: Common = {}): Vote {
  const { reason, ...said } = common;
  const reasons = reason === undefined ? {} : { reasons: [reason, ...(common.reasons ?? [])] };
  return { kind, ...fields, ...said, ...reasons };
}

function field(holder: unknown, name: string): unknown {
  return typeof holder === "object" && holder !== null ? (holder as Record<string, unknown>)[name] : undefined;
}
