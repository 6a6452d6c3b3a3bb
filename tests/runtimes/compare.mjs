// Runs exported files in onnxruntime-node and in onnxruntime-web (wasm), and compares every output
// and state with what eager torch computed. Usage: node compare.mjs <folder of cases.py>
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import * as native from "onnxruntime-node";
import * as web from "onnxruntime-web";

web.env.wasm.numThreads = 1;

function feeds(runtime, tensors) {
  const entries = Object.entries(tensors).map(([name, { dims, data }]) => [
    name,
    new runtime.Tensor("float32", Float32Array.from(data), dims),
  ]);
  return Object.fromEntries(entries);
}

function same(found, wanted) {
  const shape = found.dims.length === wanted.dims.length && found.dims.every((size, i) => size === wanted.dims[i]);
  return shape && found.data.every((value, i) => value === wanted.data[i]);
}

async function differences(runtime, folder, name) {
  const { calls } = JSON.parse(readFileSync(join(folder, `${name}.json`)));
  const session = await runtime.InferenceSession.create(
    new Uint8Array(readFileSync(join(folder, `${name}.onnx`))),
    { executionProviders: [runtime === web ? "wasm" : "cpu"] },
  );
  const found = [];
  for (const [i, { inputs, outputs }] of calls.entries()) {
    const results = await session.run(feeds(runtime, inputs));
    for (const [output, wanted] of Object.entries(outputs)) {
      if (!same(results[output], wanted)) found.push(`call ${i}: ${output}`);
    }
  }
  return found;
}

const folder = process.argv[2];
const names = readdirSync(folder).filter((file) => file.endsWith(".onnx")).map((file) => file.slice(0, -5));
const runtimes = { "onnxruntime-node": native, "onnxruntime-web": web };
let wrong = 0;
for (const [label, runtime] of Object.entries(runtimes)) {
  for (const name of names) {
    const found = await differences(runtime, folder, name);
    wrong += found.length;
    if (found.length) console.log(`${label} ${name} differs: ${found.join(", ")}`);
  }
  console.log(`${label}: ${names.length} files, bit-equal to torch unless named above`);
}
if (names.length === 0) console.log("no cases were written");
process.exit(wrong || names.length === 0 ? 1 : 0);
