import {
  ArrayMaxSize,
  IsArray,
  IsInt,
  IsNotEmpty,
  IsOptional,
  IsString,
  Max,
  MaxLength,
  Min,
  ValidateIf,
} from 'class-validator';

export const MOST_RENEWED = 50_000;

/** `POST /api/ai-tasks/claim`; with `limit` 0 it asks whether the route is there, or only renews. */
export class ClaimDto {
  @IsInt()
  @Min(0)
  limit!: number;

  @IsInt()
  @Min(1)
  @Max(86_400)
  leaseSeconds: number = 60;

  @ValidateIf((claim: ClaimDto) => claim.limit > 0 || claim.renew !== undefined)
  @IsString()
  @IsNotEmpty()
  @MaxLength(200)
  worker: string = '';

  /** Ids whose leases shall last longer, where `worker` still has them. */
  @IsOptional()
  @IsArray()
  @ArrayMaxSize(MOST_RENEWED)
  @IsString({ each: true })
  renew?: string[];
}
