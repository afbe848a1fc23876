/** Verifies opaque tokens by asking their server (RFC 7662); what it says is remembered for a few seconds. */

import { createHash } from 'node:crypto';
import type { AiTasksOptions } from '../ai-tasks.options';
import {
  TokenRefused,
  TokenVerifier,
  type VerifiedToken,
  scopesIn,
} from './token-verifier';

const PATIENCE_MS = 5_000;
const MOST_REMEMBERED = 1_000;

type Introspection = NonNullable<AiTasksOptions['introspection']>;
type Answer = Record<string, unknown> & { active?: unknown };
type Remembered = { answer: Promise<Answer>; until: number };

export class IntrospectionVerifier extends TokenVerifier {
  private readonly remembered = new Map<string, Remembered>();

  constructor(
    private readonly options: Introspection,
    private readonly issuer: string,
    private readonly audience: string | undefined,
  ) {
    super();
  }

  override async verify(token: string): Promise<VerifiedToken> {
    const answer = await this.answer(token);
    if (answer.active !== true) {
      throw new TokenRefused('the token is expired, revoked or unknown');
    }
    if (answer.iss !== undefined && answer.iss !== this.issuer) {
      throw new TokenRefused('the token is of another issuer');
    }
    if (
      this.audience !== undefined &&
      ![answer.aud].flat().includes(this.audience)
    ) {
      throw new TokenRefused('the token is for another audience');
    }
    return {
      subject: text(answer.sub) ?? text(answer.client_id),
      scopes: scopesIn(answer),
    };
  }

  private answer(token: string): Promise<Answer> {
    const key = createHash('sha256').update(token).digest('base64');
    const known = this.remembered.get(key);
    return known && known.until > Date.now()
      ? known.answer
      : this.asked(key, token);
  }

  private asked(key: string, token: string): Promise<Answer> {
    const answer = introspected(this.options, token);
    answer.catch(() => this.remembered.delete(key));
    this.forgetOldest();
    this.remembered.delete(key);
    this.remembered.set(key, {
      answer,
      until: Date.now() + 1_000 * (this.options.cacheSeconds ?? 5),
    });
    return answer;
  }

  private forgetOldest(): void {
    const [oldest] = this.remembered.keys();
    if (oldest !== undefined && this.remembered.size >= MOST_REMEMBERED) {
      this.remembered.delete(oldest);
    }
  }
}

async function introspected(
  { url, authorization }: Introspection,
  token: string,
): Promise<Answer> {
  const response = await fetch(url, {
    method: 'POST',
    headers: authorization === undefined ? {} : { authorization },
    body: new URLSearchParams({ token, token_type_hint: 'access_token' }),
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (!response.ok) {
    throw new Error(
      `The introspection of a token was answered with ${response.status}`,
    );
  }
  return (await response.json()) as Answer;
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
