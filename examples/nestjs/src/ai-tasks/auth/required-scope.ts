/** `@RequiredScope('read')`: what a token must allow before a route is entered. */

import { Reflector } from '@nestjs/core';

export const RequiredScope = Reflector.createDecorator<string>();
