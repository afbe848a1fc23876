/** Who a bearer token speaks for: what a verifier answers, and what it throws. */

export interface VerifiedToken {
  subject: string | undefined;
  scopes: ReadonlySet<string>;
}

export abstract class TokenVerifier {
  /** Throws TokenRefused; any other error means that the token could not be judged now. */
  abstract verify(token: string): Promise<VerifiedToken>;
}

export class TokenRefused extends Error {}

/** The scopes of a token, however its server writes them: RFC 9068, or a list as Ory and others do. */
export function scopesIn(claims: Record<string, unknown>): ReadonlySet<string> {
  const given = claims.scope ?? claims.scp;
  const scopes: unknown[] =
    typeof given === 'string'
      ? given.split(' ')
      : Array.isArray(given)
        ? given
        : [];
  return new Set(scopes.filter((scope) => typeof scope === 'string'));
}
