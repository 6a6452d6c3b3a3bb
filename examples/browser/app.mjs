// Runs one time step of the exported network for every frame and feeds its states back.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";

const SIZE = 16;
const STEP_MS = 100;
const DRIFT = [0, 1, 2, 1, 0, -1, -2, -1]; // pixels to the side, one of them every second step
const LAYERS = [
  { output: "out1", title: "stem: 8 channels of 8 x 8", side: 8 },
  { output: "out2", title: "binary convolution: 16 channels of 4 x 4", side: 4 },
  { output: "out3", title: "binary linear layer: 64 neurons", side: 8 },
];

ort.env.wasm.numThreads = 1;
const bytes = new Uint8Array(await (await fetch("net.onnx")).arrayBuffer());
const session = await ort.InferenceSession.create(bytes);
const { input, states, outputs } = await (await fetch("states.json")).json();

const element = (id) => document.getElementById(id);
const drawing = new Float32Array(SIZE * SIZE);
let memory = fresh();
let step = 0;
let drawn = 0; // how often the field was cleared: a step that was under way then is dropped
const history = []; // every frame and what came out, for the test
window.snn = { history, session };

function fresh() {
  return Object.fromEntries(
    states.map(({ input, dims, initial }) => {
      const count = dims.reduce((a, b) => a * b, 1);
      return [input, new ort.Tensor("float32", new Float32Array(count).fill(initial), dims)];
    }),
  );
}

function moved(shift) {
  const frame = new Float32Array(SIZE * SIZE);
  for (let i = 0; i < drawing.length; i++) {
    const column = (i % SIZE) + shift;
    if (drawing[i] && column >= 0 && column < SIZE) frame[i + shift] = 1;
  }
  return frame;
}

async function advance() {
  const frame = moved(DRIFT[(step >> 1) % DRIFT.length]);
  const before = drawn;
  const results = await session.run({
    [input]: new ort.Tensor("float32", frame, [1, 1, SIZE, SIZE]),
    ...memory,
  });
  if (before !== drawn) return;
  memory = Object.fromEntries(states.map(({ input, output }) => [input, results[output]]));
  step += 1;
  history.push({
    step,
    frame: [...frame],
    outputs: Object.fromEntries(outputs.map((name) => [name, [...results[name].data]])),
  });
  if (history.length > 600) history.shift();
  show(frame, results);
}

function paint(canvas, values, width) {
  canvas.width = width;
  canvas.height = values.length / width;
  const image = canvas.getContext("2d").createImageData(canvas.width, canvas.height);
  values.forEach((value, i) => image.data.set(value ? [255, 220, 90, 255] : [17, 17, 17, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function sideBySide(values, side) {
  const channels = values.length / (side * side);
  return values.map((_, i) => {
    const row = Math.floor(i / (channels * side));
    const column = i % (channels * side);
    return values[Math.floor(column / side) * side * side + row * side + (column % side)];
  });
}

function show(frame, results) {
  paint(element("field"), frame, SIZE);
  let fired = 0;
  for (const { output, side } of LAYERS) {
    const values = results[output].data;
    fired += values.reduce((a, b) => a + b, 0);
    paint(element(output), sideBySide([...values], side), values.length / side);
  }
  const scores = [...results[outputs[0]].data];
  const weights = scores.map((score) => Math.exp(score - Math.max(...scores)));
  const total = weights.reduce((a, b) => a + b, 0);
  const best = scores.indexOf(Math.max(...scores));
  element("scores").replaceChildren(
    ...weights.map((weight, digit) => {
      const row = document.createElement("div");
      row.className = digit === best ? "score best" : "score";
      row.innerHTML = `<span>${digit}</span><div class="bar" style="width:${(100 * weight) / total}%"></div>`;
      return row;
    }),
  );
  element("status").textContent = `step ${step}: ${fired} spikes`;
}

function draw(event) {
  if (!(event.buttons & 1)) return;
  const box = element("field").getBoundingClientRect();
  const shift = DRIFT[(step >> 1) % DRIFT.length];
  const x = Math.floor(((event.clientX - box.left) / box.width) * SIZE) - shift;
  const y = Math.floor(((event.clientY - box.top) / box.height) * SIZE);
  for (const [dx, dy] of [[0, 0], [1, 0], [0, 1], [1, 1]]) {
    const inside = x + dx >= 0 && x + dx < SIZE && y + dy >= 0 && y + dy < SIZE;
    if (inside) drawing[(y + dy) * SIZE + x + dx] = 1;
  }
}

function clear() {
  drawing.fill(0);
  memory = fresh();
  step = 0;
  drawn += 1;
  history.length = 0;
}

for (const { output, title } of LAYERS) {
  const canvas = Object.assign(document.createElement("canvas"), { id: output, className: "layer" });
  element("layers").append(title, canvas);
}
element("field").addEventListener("pointerdown", draw);
element("field").addEventListener("pointermove", draw);
element("clear").addEventListener("click", clear);

for (;;) {
  const before = performance.now();
  await advance();
  await new Promise((resume) => setTimeout(resume, STEP_MS - (performance.now() - before)));
}
