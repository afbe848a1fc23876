/** Lets a request in whose bearer token is good and has the scope of the route. */

import {
  type CanActivate,
  type ExecutionContext,
  ForbiddenException,
  Injectable,
  Logger,
  ServiceUnavailableException,
  UnauthorizedException,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { Request, Response } from 'express';
import { RequiredScope } from './required-scope';
import {
  TokenRefused,
  TokenVerifier,
  type VerifiedToken,
} from './token-verifier';

@Injectable()
export class BearerGuard implements CanActivate {
  private readonly log = new Logger(BearerGuard.name);

  constructor(
    private readonly verifier: TokenVerifier,
    private readonly reflector: Reflector,
  ) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const response = context.switchToHttp().getResponse<Response>();
    const token = bearerToken(context.switchToHttp().getRequest<Request>());
    if (token === null) {
      response.setHeader('WWW-Authenticate', 'Bearer');
      throw new UnauthorizedException('A bearer token is needed.');
    }
    const { scopes } = await this.verified(token, response);
    const scope = this.reflector.get(RequiredScope, context.getHandler());
    if (scope !== undefined && !scopes.has(scope)) {
      response.setHeader(
        'WWW-Authenticate',
        `Bearer error="insufficient_scope", scope="${scope}"`,
      );
      throw new ForbiddenException(`The token lacks the scope ${scope}.`);
    }
    return true;
  }

  /** A token that cannot be judged is not refused: its owner would only fetch another one. */
  private async verified(
    token: string,
    response: Response,
  ): Promise<VerifiedToken> {
    try {
      return await this.verifier.verify(token);
    } catch (error) {
      if (error instanceof TokenRefused) {
        response.setHeader('WWW-Authenticate', 'Bearer error="invalid_token"');
        throw new UnauthorizedException(`No access: ${error.message}.`);
      }
      this.log.error(`Tokens cannot be verified: ${String(error)}`);
      response.setHeader('Retry-After', '5');
      throw new ServiceUnavailableException('Tokens cannot be verified now.');
    }
  }
}

function bearerToken(request: Request): string | null {
  const [, token] =
    /^bearer +(\S+) *$/i.exec(request.headers.authorization ?? '') ?? [];
  return token ?? null;
}
