// The official OpenAI client for Node against our server: `node client.mjs <base URL> <key> <what>` prints one JSON value.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [baseURL, apiKey, what] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30000 });
const messages = [{ role: "user", content: "Raconte." }];
const model = "gpt-4o";
const weather = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};

async function caught(ask) {
  try {
    const answer = await ask();
    for await (const _ of answer) {
    }
  } catch (error) {
    const { status, code, param, type, requestID } = error;
    return { kind: error.constructor.name, status, code, param, type, hasRequestId: Boolean(requestID) };
  }
  return { kind: "no error" };
}

const scenarios = {
  async transcription() {
    const file = new File([readFileSync(process.argv[5])], "a.wav");
    const answer = await client.audio.transcriptions.create({ file, model: "whisper-1", response_format: "verbose_json" });
    return { text: answer.text, segments: answer.segments.length, cost: answer.impact.cost_eur };
  },

  async whole() {
    const answer = await client.chat.completions.create({ model, messages });
    return { text: answer.choices[0].message.content, usage: answer.usage, cost: answer.impact.cost_eur };
  },

  async stream() {
    const stream = await client.chat.completions.create({
      model: "V2",
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return {
      ids: [...new Set(chunks.map((chunk) => chunk.id))].length,
      text: chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join(""),
      reasons: chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.finish_reason)),
      usage: chunks.at(-1).usage,
      agent: chunks.at(-1).impact.agent,
    };
  },

  async helper() {
    const pieces = [];
    const runner = client.chat.completions.stream({ model, messages });
    runner.on("content", (piece) => pieces.push(piece));
    const final = await runner.finalChatCompletion();
    return { pieces, text: final.choices[0].message.content, reason: final.choices[0].finish_reason };
  },

  async tools() {
    const first = await client.chat.completions.create({ model, messages, tools: [weather] });
    const call = first.choices[0].message.tool_calls[0];
    const result = { role: "tool", tool_call_id: call.id, content: "4 °C" };
    const second = await client.chat.completions.create({
      model,
      messages: [...messages, first.choices[0].message, result],
      tools: [weather],
    });
    return { arguments: JSON.parse(call.function.arguments), text: second.choices[0].message.content };
  },

  async streamed_tools() {
    const runner = client.chat.completions.stream({ model, messages, tools: [weather] });
    const { message, finish_reason } = (await runner.finalChatCompletion()).choices[0];
    return { call: message.tool_calls[0], content: message.content, reason: finish_reason };
  },

  async structured() {
    const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
    const answer = await client.chat.completions.parse({
      model,
      messages,
      response_format: { type: "json_schema", json_schema: { name: "place", schema, strict: true } },
    });
    return JSON.parse(answer.choices[0].message.content);
  },

  async models() {
    const ids = [];
    for await (const listed of client.models.list()) ids.push(listed.id);
    const one = await client.models.retrieve("google/gemma-3-27b-it");
    return { ids, one: one.id, owner: one.owned_by };
  },

  async embeddings() {
    const model = "use-multilingual-v3";
    const answer = await client.embeddings.create({ model, input: ["Le chat dort."] });
    const numbers = await client.embeddings.create({ model, input: "Le chat dort.", encoding_format: "float" });
    const difference = answer.data[0].embedding.map((value, i) => Math.abs(value - numbers.data[0].embedding[i]));
    return { length: answer.data[0].embedding.length, difference: Math.max(...difference) };
  },

  async errors() {
    const stranger = new OpenAI({ baseURL, apiKey: "sk-wrong", maxRetries: 0 });
    return [
      await caught(() => stranger.chat.completions.create({ model, messages })),
      await caught(() => client.chat.completions.create({ model: "gpt-9", messages })),
      await caught(() => client.chat.completions.create({ model, messages, temperature: 9 })),
    ];
  },

  async retries() {
    const eager = new OpenAI({ baseURL, apiKey, maxRetries: 3 });
    return caught(() => eager.chat.completions.create({ model, messages }));
  },

  async broken() {
    return caught(() => client.chat.completions.create({ model, messages, stream: true }));
  },
};

console.log(JSON.stringify(await scenarios[what]()));
