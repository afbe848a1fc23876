import {
  Body,
  Controller,
  Get,
  NotFoundException,
  Param,
  ParseIntPipe,
  Post,
  Query,
  UseGuards,
  UsePipes,
  ValidationPipe,
} from '@nestjs/common';
import {
  ArrayMaxSize,
  ArrayMinSize,
  IsArray,
  IsOptional,
  IsString,
  MaxLength,
  MinLength,
} from 'class-validator';
import { BearerGuard, RequiredScope } from '../ai-tasks';
import type { Document } from './document-store';
import { DocumentsService } from './documents.service';

export class CreateDocumentsDto {
  @IsArray()
  @ArrayMinSize(1)
  @ArrayMaxSize(10_000)
  @IsString({ each: true })
  @MinLength(1, { each: true })
  @MaxLength(100_000, { each: true })
  texts!: string[];

  @IsOptional()
  @IsString()
  model: string = 'nomic-embed-text';
}

/** The guard of the AI tasks does for the routes of the application as well. */
@Controller('documents')
@UseGuards(BearerGuard)
@UsePipes(new ValidationPipe({ transform: true, whitelist: true }))
export class DocumentsController {
  constructor(private readonly documents: DocumentsService) {}

  @Post()
  @RequiredScope('write')
  async create(
    @Body() { texts, model }: CreateDocumentsDto,
  ): Promise<{ ids: string[] }> {
    return {
      ids: (await this.documents.create(texts, model)).map(({ id }) => id),
    };
  }

  @Get()
  @RequiredScope('read')
  page(
    @Query('after', ParseIntPipe) after: number,
    @Query('limit', ParseIntPipe) limit: number,
  ): Promise<Document[]> {
    return this.documents.page(Math.max(0, after), Math.min(1_000, limit));
  }

  @Get(':id')
  @RequiredScope('read')
  async find(@Param('id') id: string): Promise<Document> {
    const document = await this.documents.find(id);
    if (document === null) {
      throw new NotFoundException(`There is no document ${id}.`);
    }
    return document;
  }
}
