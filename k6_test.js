// Ramped load of single texts and of batches:  BASE_URL=http://host:8001 API_TOKEN=... k6 run k6_test.js
// The same load for Python is bench/locustfile.py.
import http from "k6/http";
import { check } from "k6";

const url = __ENV.BASE_URL || "http://localhost:8001";
const headers = { "Content-Type": "application/json" };
if (__ENV.API_TOKEN) headers.Authorization = `Bearer ${__ENV.API_TOKEN}`;

const stages = [
  { duration: "30s", target: 10 },
  { duration: "1m", target: 50 },
  { duration: "30s", target: 0 },
];

export const options = {
  scenarios: {
    single: { executor: "ramping-vus", exec: "single", stages },
    batch: { executor: "ramping-vus", exec: "batch", stages: stages.map((s) => ({ ...s, target: Math.ceil(s.target / 5) })) },
  },
  thresholds: {
    "http_req_failed": ["rate<0.01"],
    "http_req_duration{scenario:single}": ["p(95)<500"],
    "http_req_duration{scenario:batch}": ["p(95)<2000"],
  },
};

export function setup() {
  const model = http.get(`${url}/v1/models`, { headers }).json("data.0.id");
  return { model, run: Date.now() }; // texts of another run may be in the cache
}

function embed(model, input) {
  const reply = http.post(`${url}/v1/embeddings`, JSON.stringify({ model, input }), { headers });
  check(reply, {
    "status is 200": (r) => r.status === 200,
    "one vector for each input": (r) => r.status === 200 && r.json("data").length === [].concat(input).length,
  });
}

export function single({ model, run }) {
  embed(model, `a sentence of user ${__VU} in run ${run}, its number ${__ITER}`);
}

export function batch({ model, run }) {
  embed(model, Array.from({ length: 32 }, (_, i) => `sentence ${i} of batch ${__ITER} of user ${__VU} in run ${run}`));
}
