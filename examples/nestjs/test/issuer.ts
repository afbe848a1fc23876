/** A token server in the process of the test: its keys, clock and health are in the test's hands. */

import { once } from 'node:events';
import { type Server, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  type CryptoKey,
  type JWK,
  SignJWT,
  exportJWK,
  generateKeyPair,
} from 'jose';

export const AUDIENCE = 'ai-tasks';

export interface TokenFacts {
  scope?: string;
  audience?: string;
  issuer?: string;
  issuedAt?: number;
  seconds?: number;
  scopes?: string[];
}

export class Issuer {
  /** While false its routes answer 503. */
  healthy = true;
  /** What it says of opaque tokens. */
  readonly introspected = new Map<string, Record<string, unknown>>();
  introspections = 0;
  private published: JWK[] = [];
  private signing: { key: CryptoKey; kid: string } | null = null;
  private keys = 0;
  private readonly server: Server = createServer((request, response) => {
    let body = '';
    request.on('data', (data) => (body += data));
    request.on('end', () => {
      const answer = this.answer(request.url ?? '', new URLSearchParams(body));
      response
        .writeHead(this.healthy ? 200 : 503, {
          'Content-Type': 'application/json',
        })
        .end(JSON.stringify(answer));
    });
  });

  static async started(): Promise<Issuer> {
    const issuer = new Issuer();
    issuer.server.listen(0, '127.0.0.1');
    await once(issuer.server, 'listening');
    await issuer.rotate();
    return issuer;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** Signs with a new key from now on, and publishes nothing else. */
  async rotate(): Promise<void> {
    const { privateKey, publicKey } = await generateKeyPair('ES256');
    const kid = `key-${++this.keys}`;
    this.signing = { key: privateKey, kid };
    this.published = [
      { ...(await exportJWK(publicKey)), kid, alg: 'ES256', use: 'sig' },
    ];
  }

  token(facts: TokenFacts = {}): Promise<string> {
    const now = facts.issuedAt ?? Math.floor(Date.now() / 1_000);
    const { scope = 'read write', scopes } = facts;
    return new SignJWT(scopes ? { scp: scopes } : { scope })
      .setProtectedHeader({ alg: 'ES256', kid: this.signing!.kid })
      .setIssuer(facts.issuer ?? this.url)
      .setAudience(facts.audience ?? AUDIENCE)
      .setSubject('worker')
      .setIssuedAt(now)
      .setExpirationTime(now + (facts.seconds ?? 60))
      .sign(this.signing!.key);
  }

  stop(): void {
    this.server.close();
    this.server.closeAllConnections();
  }

  private answer(path: string, form: URLSearchParams): object {
    if (path === '/introspect') {
      this.introspections += 1;
      return (
        this.introspected.get(form.get('token') ?? '') ?? { active: false }
      );
    }
    return path === '/jwks'
      ? { keys: this.published }
      : { issuer: this.url, jwks_uri: `${this.url}/jwks` };
  }
}
