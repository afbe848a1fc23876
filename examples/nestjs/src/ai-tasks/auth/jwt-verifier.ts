/** Verifies signed tokens (JWT) with the public keys that their issuer publishes. */

import type { JWTVerifyGetKey } from 'jose';
import type { AiTasksOptions } from '../ai-tasks.options';
import {
  TokenRefused,
  TokenVerifier,
  type VerifiedToken,
  scopesIn,
} from './token-verifier';

const ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
];
const DISCOVERY = '/.well-known/openid-configuration';
const PATIENCE_MS = 5_000;

type Jose = typeof import('jose');

/** An ES module, which Jest cannot load: so it is not, before the first token is verified. */
const jose = (): Promise<Jose> => import('jose');

export class JwtVerifier extends TokenVerifier {
  private keys: Promise<JWTVerifyGetKey> | null = null;

  constructor(private readonly options: AiTasksOptions) {
    super();
  }

  override async verify(token: string): Promise<VerifiedToken> {
    const {
      issuer,
      audience,
      clockToleranceSeconds: clockTolerance = 5,
    } = this.options;
    const keys = await this.publicKeys();
    const { errors, jwtVerify } = await jose();
    try {
      const { payload } = await jwtVerify(token, keys, {
        issuer,
        audience,
        clockTolerance,
        algorithms: ALGORITHMS,
        requiredClaims: ['exp'],
      });
      return { subject: payload.sub, scopes: scopesIn(payload) };
    } catch (error) {
      throw refused(error, errors);
    }
  }

  private publicKeys(): Promise<JWTVerifyGetKey> {
    this.keys ??= this.findKeys().catch((error: unknown) => {
      this.keys = null; // the next token tries again
      throw error;
    });
    return this.keys;
  }

  private async findKeys(): Promise<JWTVerifyGetKey> {
    const uri = this.options.jwksUri ?? (await discovered(this.options.issuer));
    const cooldownDuration = 1_000 * (this.options.jwksCooldownSeconds ?? 30);
    const { createRemoteJWKSet } = await jose();
    return createRemoteJWKSet(new URL(uri), {
      cooldownDuration,
      timeoutDuration: PATIENCE_MS,
    });
  }
}

async function discovered(issuer: string): Promise<string> {
  const response = await fetch(issuer.replace(/\/$/, '') + DISCOVERY, {
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  const { jwks_uri: uri } = (await response.json()) as { jwks_uri?: unknown };
  if (typeof uri !== 'string') {
    throw new Error(
      `The issuer does not say where its keys are (HTTP ${response.status}); set jwksUri`,
    );
  }
  return uri;
}

/** The issuer's keys being out of reach says nothing about the token; every other error of jose does. */
function refused(error: unknown, errors: Jose['errors']): unknown {
  const unreachable =
    error instanceof errors.JWKSTimeout || error instanceof errors.JWKSInvalid;
  const ofToken =
    error instanceof errors.JOSEError &&
    !unreachable &&
    error.code !== 'ERR_JOSE_GENERIC';
  return ofToken ? new TokenRefused(error.message) : error;
}
