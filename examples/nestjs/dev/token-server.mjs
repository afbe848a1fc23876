/**
 * An OAuth2 server to try the API with, in place of Ory, Keycloak or whatever issues your tokens: one client, client
 * credentials, nothing kept when it ends. SIGHUP makes it sign with a new key and forget the old one (and all opaque
 * tokens); SIGUSR2 makes it revoke the last opaque token.
 */

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const {
  HOST = '127.0.0.1',
  PORT = '4000',
  CLIENT_ID = 'ai-task-processor',
  CLIENT_SECRET = 'only-for-trying-things-out',
  AUTH_METHOD = 'client_secret_basic',
  AUDIENCE = 'ai-tasks',
  TOKEN_SECONDS = '900',
  TOKEN_FORMAT = 'jwt', // or opaque
} = process.env;

let lastToken = null;
let answer = (_, response) => response.writeHead(503).end();
const server = createServer((request, response) => answer(request, response));
server.listen(Number(PORT), HOST, () => {
  const issuer = `http://${HOST}:${server.address().port}`;
  const renew = () => {
    answer = provider(issuer).callback();
  };
  renew();
  process.on('SIGHUP', () => {
    renew();
    say({ event: 'key rotated' });
  });
  process.on('SIGUSR2', () => lastToken?.destroy());
  say({ event: 'listening', issuer, token_url: `${issuer}/token` });
});

function provider(issuer) {
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: CLIENT_ID,
        client_secret: CLIENT_SECRET,
        token_endpoint_auth_method: AUTH_METHOD,
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
        scope: 'read write',
      },
    ],
    jwks: { keys: [signingKey()] },
    scopes: ['read', 'write'],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => `urn:${AUDIENCE}`,
        getResourceServerInfo: resource,
      },
      revocation: { enabled: true, allowedPolicy: () => true },
    },
    ttl: { ClientCredentials: Number(TOKEN_SECONDS) },
  });
  provider.on('client_credentials.saved', (token) => {
    lastToken = token;
    say({ event: 'token issued' });
  });
  provider.on('client_credentials.issued', () =>
    say({ event: 'token issued' }),
  );
  provider.on('client_credentials.destroyed', () =>
    say({ event: 'token revoked' }),
  );
  provider.on('grant.error', (_, error) =>
    say({ event: 'token refused', error: error.message }),
  );
  return provider;
}

/** A resource is named by a URI (RFC 8707); in the token it is the audience. */
function resource() {
  return {
    scope: 'read write',
    audience: AUDIENCE,
    accessTokenFormat: TOKEN_FORMAT,
    accessTokenTTL: Number(TOKEN_SECONDS),
    jwt: { sign: { alg: 'RS256' } },
  };
}

function signingKey() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return {
    ...privateKey.export({ format: 'jwk' }),
    kid: randomUUID(),
    alg: 'RS256',
    use: 'sig',
  };
}

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}
