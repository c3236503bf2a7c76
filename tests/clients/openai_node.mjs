// OpenAI's own Node client against a running server: chat, stream, tools, structured output, abort of a stream.
//
//     API_KEY=… node tests/clients/openai_node.mjs http://127.0.0.1:8000 smollm2-135m-instruct

import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.API_KEY ?? "any", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const schema = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};

const whole = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 16 });
const text = whole.choices[0].message.content;
assert.match(text, /Paris/);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 16, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(streamed, text);
console.log("ok chat and stream");

const tools = [{ type: "function", function: { name: "get_weather", parameters: schema } }];
const runner = client.chat.completions.stream({
  model, messages, tools, tool_choice: "required", parallel_tool_calls: false, temperature: 0, max_tokens: 120,
});
const final = await runner.finalChatCompletion();
assert.equal(final.choices[0].finish_reason, "tool_calls");
assert.deepEqual(Object.keys(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments)), ["city", "days"]);
console.log("ok tools");

const format = { type: "json_schema", json_schema: { name: "weather", schema, strict: true } };
const formed = await client.chat.completions.create({ model, messages, response_format: format, max_tokens: 120 });
assert.deepEqual(Object.keys(JSON.parse(formed.choices[0].message.content)), ["city", "days"]);
console.log("ok structured output");

const long = await client.chat.completions.create({ model, messages, max_tokens: 2000, stream: true });
for await (const chunk of long) {
  if (chunk.choices[0]?.delta?.content) {
    long.controller.abort();
    break;
  }
}
const deadline = Date.now() + 5000;
for (;;) {
  const load = await (await fetch(`${url}/load`, { headers: { authorization: `Bearer ${process.env.API_KEY ?? "any"}` } })).json();
  if (load.running === 0) break;
  assert.ok(Date.now() < deadline, "the engine goes on after an abort");
  await new Promise((resolve) => setTimeout(resolve, 50));
}
console.log("ok abort");
