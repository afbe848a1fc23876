import assert from 'node:assert/strict';
import {
  after,
  afterEach,
  before,
  beforeEach,
  describe,
  test,
} from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { UnsecuredJWT } from 'jose';
import { Api } from './api';
import { AUDIENCE, Issuer, type TokenFacts } from './issuer';

const PENDING = '/api/ai-tasks/pending';
const now = (): number => Math.floor(Date.now() / 1_000);

describe('signed tokens', () => {
  let api: Api;
  before(async () => {
    api = await Api.started({
      clockToleranceSeconds: 5,
      jwksCooldownSeconds: 0.05,
    });
  });
  after(() => api.stop());

  async function status(
    facts: TokenFacts,
    method = 'GET',
    path = PENDING,
  ): Promise<number> {
    return (
      await api.ask(method, path, undefined, await api.issuer.token(facts))
    ).status;
  }

  test('nobody gets in without one, and is told what is wanted', async () => {
    for (const path of [PENDING, '/api/ai-tasks/claim']) {
      const answer = await api.ask(
        path === PENDING ? 'GET' : 'POST',
        path,
        undefined,
        null,
      );
      assert.equal(answer.status, 401);
      assert.equal(answer.headers.get('WWW-Authenticate'), 'Bearer');
    }
  });

  test('what is no token, or nobody has signed, or somebody else has, is refused', async () => {
    const claims = {
      iss: api.issuer.url,
      aud: AUDIENCE,
      exp: now() + 60,
      scope: 'read write',
    };
    const stranger = await Issuer.started();
    const forged = await stranger.token({ issuer: api.issuer.url });
    stranger.stop();
    for (const token of [
      'x',
      'a.b.c',
      new UnsecuredJWT(claims).encode(),
      forged,
    ]) {
      const answer = await api.ask('GET', PENDING, undefined, token);
      assert.equal(answer.status, 401);
      assert.match(answer.headers.get('WWW-Authenticate')!, /invalid_token/);
    }
  });

  test('a token of another issuer or for another audience is refused', async () => {
    assert.equal(await status({ issuer: 'https://elsewhere.example' }), 401);
    assert.equal(await status({ audience: 'something-else' }), 401);
  });

  test('reading needs read, and everything else write, however the scopes are written', async () => {
    assert.equal(await status({ scope: 'read' }), 200);
    assert.equal(await status({ scope: 'write' }), 403);
    assert.equal(await status({ scopes: ['read'] }), 200);
    assert.equal(
      await status({ scope: 'read' }, 'POST', '/api/ai-tasks/claim'),
      403,
    );
    assert.equal(
      await status({ scope: 'read' }, 'PATCH', '/api/ai-tasks'),
      403,
    );
    assert.equal(
      await status({ scope: 'read' }, 'PATCH', '/api/ai-tasks/x'),
      403,
    );
    assert.equal(await status({ scope: 'readwrite' }), 403);
  });

  test('clocks may differ a little', async () => {
    assert.equal(await status({ issuedAt: now() - 62, seconds: 60 }), 200);
    assert.equal(await status({ issuedAt: now() - 70, seconds: 60 }), 401);
    assert.equal(await status({ issuedAt: now() + 3, seconds: 60 }), 200);
  });

  test('a new key is found by itself, and the old one is worth nothing then', async () => {
    const old = await api.issuer.token();
    assert.equal((await api.ask('GET', PENDING, undefined, old)).status, 200);
    await sleep(50);
    await api.issuer.rotate();
    assert.equal(await status({}), 200);
    assert.equal((await api.ask('GET', PENDING, undefined, old)).status, 401);
    await api.issuer.rotate();
  });

  test('an issuer that cannot be asked refuses nobody', async () => {
    await sleep(50);
    await api.issuer.rotate();
    api.issuer.healthy = false;
    const answer = await api.ask(
      'GET',
      PENDING,
      undefined,
      await api.issuer.token(),
    );
    assert.equal(answer.status, 503);
    assert.equal(answer.headers.get('Retry-After'), '5');
    api.issuer.healthy = true;
    await sleep(50);
    assert.equal(await status({}), 200);
  });
});

describe('an issuer that is down at the start', () => {
  test('is asked again', async () => {
    const issuer = await Issuer.started();
    issuer.healthy = false;
    const api = await Api.started({ issuer: issuer.url }, issuer);
    const ask = (): Promise<{ status: number }> => api.ask('GET', PENDING);
    issuer.healthy = true;
    assert.equal((await ask()).status, 200);
    await api.stop();
  });
});

describe('opaque tokens', () => {
  let issuer: Issuer;
  let api: Api;
  beforeEach(async () => {
    issuer = await Issuer.started();
    const introspection = {
      url: `${issuer.url}/introspect`,
      authorization: 'Basic x',
      cacheSeconds: 0.03,
    };
    api = await Api.started({ introspection }, issuer);
    issuer.introspected.set('good', {
      active: true,
      iss: issuer.url,
      aud: AUDIENCE,
      scope: 'read',
    });
  });
  afterEach(() => api.stop());

  const ask = async (token: string): Promise<number> =>
    (await api.ask('GET', PENDING, undefined, token)).status;

  test('are what their server says they are', async () => {
    issuer.introspected.set('foreign', {
      active: true,
      iss: 'https://elsewhere.example',
      aud: AUDIENCE,
      scope: 'read',
    });
    issuer.introspected.set('elsewhere', {
      active: true,
      aud: ['other'],
      scope: 'read',
    });
    issuer.introspected.set('poor', {
      active: true,
      aud: [AUDIENCE],
      scope: 'write',
    });
    assert.deepEqual(
      [
        await ask('good'),
        await ask('unknown'),
        await ask('foreign'),
        await ask('elsewhere'),
        await ask('poor'),
      ],
      [200, 401, 401, 401, 403],
    );
  });

  test('are asked about once in a while, so that a revoked one is soon refused', async () => {
    assert.deepEqual(
      await Promise.all([ask('good'), ask('good'), ask('good')]),
      [200, 200, 200],
    );
    assert.equal(issuer.introspections, 1);
    issuer.introspected.delete('good');
    await sleep(40);
    assert.equal(await ask('good'), 401);
  });

  test('are not refused when their server cannot be asked', async () => {
    issuer.healthy = false;
    assert.equal(await ask('good'), 503);
    issuer.healthy = true;
    assert.equal(await ask('good'), 200);
  });
});
