/** Requests that are sent again where that is of use. */

/** The service refused, or did not answer (`status` 0). */
export class FeedbackError extends Error {
  override name = "FeedbackError";

  constructor(
    /** The HTTP status; 0 where nobody answered. */
    readonly status: number,
    message: string,
    /** A stable word for programs. */
    readonly code: string | null = null,
    /** The field at fault. */
    readonly param: string | null = null,
    /** Seconds after which the service wants to be asked again, if it said so. */
    readonly retryAfter: number | null = null,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

export interface Service {
  /** Without /v1. */
  url: string;
  apiKey: string | undefined;
  maxRetries: number;
  /** Milliseconds for each try. */
  timeout: number;
  fetch: typeof fetch;
}

const LONGEST_WAIT_SECONDS = 30;

/** Ask the service, with one idempotency key for all tries. Throws a FeedbackError. */
export async function ask(
  service: Service,
  method: "GET" | "POST" | "DELETE",
  path: string,
  body?: unknown,
  token?: string,
): Promise<unknown> {
  const headers: Record<string, string> = {};
  const bearer = service.apiKey ?? token;
  if (bearer !== undefined) headers["authorization"] = `Bearer ${bearer}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  if (method === "POST") headers["idempotency-key"] = newKey();
  const request: RequestInit = { method, headers };
  if (body !== undefined) request.body = JSON.stringify(body);
  for (let attempt = 0; ; attempt++) {
    const last = attempt >= service.maxRetries;
    let wait = Math.min(0.25 * 2 ** attempt, 8) * (0.75 + Math.random() / 2);
    try {
      const signal = AbortSignal.timeout(service.timeout);
      const answer = await service.fetch(service.url + path, { ...request, signal });
      const text = await answer.text();
      if (answer.ok) return JSON.parse(text);
      const wanted = retryAfter(answer);
      if (last || !mayPass(answer.status, wanted)) throw refusal(answer.status, text, wanted);
      wait = wanted ?? wait;
    } catch (error) {
      if (error instanceof FeedbackError) throw error;
      if (last) {
        const said = error instanceof Error ? error.message : String(error);
        throw new FeedbackError(0, `${service.url} does not answer: ${said}`, null, null, null, { cause: error });
      }
    }
    await new Promise((resolve) => setTimeout(resolve, wait * 1000));
  }
}

/** Whether a refused request may succeed after a wait that is short enough. */
function mayPass(status: number, wanted: number | null): boolean {
  const later = status >= 500 || status === 408 || status === 429 || (status === 409 && wanted !== null);
  return later && (wanted ?? 0) <= LONGEST_WAIT_SECONDS;
}

function retryAfter(answer: Response): number | null {
  for (const [name, unit] of [["retry-after-ms", 1000], ["retry-after", 1]] as const) {
    const text = answer.headers.get(name) ?? "";
    if (/^\d+$/.test(text)) return Number(text) / unit;
  }
  return null;
}

function refusal(status: number, text: string, wanted: number | null): FeedbackError {
  try {
    const { message, code, param } = JSON.parse(text).error;
    return new FeedbackError(status, String(message), code ?? null, param ?? null, wanted);
  } catch {
    return new FeedbackError(status, text.slice(0, 300) || "no message", null, null, wanted);
  }
}

function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
