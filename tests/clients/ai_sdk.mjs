// The Vercel AI SDK against a running server: generateText, streamText, generateObject, a tool call.
//
//     API_KEY=… node tests/clients/ai_sdk.mjs http://127.0.0.1:8000 smollm2-135m-instruct

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const [url, name] = process.argv.slice(2);
const provider = createOpenAICompatible({
  name: "fast-inference", baseURL: `${url}/v1`, apiKey: process.env.API_KEY ?? "any", supportsStructuredOutputs: true,
});
const model = provider(name);
const prompt = "What is the capital of France?";

const { text } = await generateText({ model, prompt, temperature: 0, maxOutputTokens: 16, maxRetries: 0 });
assert.match(text, /Paris/);
const stream = streamText({ model, prompt, temperature: 0, maxOutputTokens: 16, maxRetries: 0 });
let streamed = "";
for await (const piece of stream.textStream) streamed += piece;
assert.equal(streamed, text);
console.log("ok generateText and streamText");

const schema = z.object({ name: z.string().max(20), age: z.number().int().min(0).max(120) });
const { object } = await generateObject({ model, schema, prompt: "John is 25.", maxOutputTokens: 120, maxRetries: 0 });
schema.parse(object);
console.log("ok generateObject");

const { toolCalls } = await generateText({
  model, prompt, temperature: 0, maxOutputTokens: 120, maxRetries: 0, toolChoice: "required",
  tools: { weather: tool({ description: "the weather", inputSchema: z.object({ city: z.string().max(20) }) }) },
});
assert.equal(toolCalls[0].toolName, "weather");
assert.equal(typeof toolCalls[0].input.city, "string");
console.log("ok tool call");
