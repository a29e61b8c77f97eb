// Lays a map's points out so that neighbours stay near each other (UMAP), in a thread of its own:
// 20,000 points take half a minute. Only what this file's response allows may run here, which is
// WebAssembly in addition to the console's own scripts.

import { createUMAPFromKNN } from "../vendor/embedding-atlas/umap.js";

onmessage = async ({ data: { count, indices, distances } }) => {
  try {
    const progress = (share) => postMessage({ share });
    const umap = await createUMAPFromKNN(count, 2, indices, distances, { seed: 1, progress });
    await umap.run();
    postMessage({ places: new Float32Array(umap.embedding) });
  } catch (error) {
    postMessage({ error: String(error) });
  }
};
