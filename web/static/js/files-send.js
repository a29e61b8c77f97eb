// Sends a file to the service, with its progress: `fetch` does not tell how far it is.

import { ApiError } from "./api.js";

const UNITS = ["bytes", "kB", "MB", "GB"];

/** A size for people: "1.2 MB". */
export function sizeOf(bytes) {
  const step = Math.min(UNITS.length - 1, Math.floor(Math.log10(Math.max(bytes, 1)) / 3));
  return `${(bytes / 1000 ** step).toFixed(step ? 1 : 0)} ${UNITS[step]}`;
}

/** Send a file to be kept and not yet stored; resolves to its job. `told(share)` is called as it goes. */
export function sendFile(path, file, signal, told) {
  const request = new XMLHttpRequest();
  request.open("POST", `${path}?${new URLSearchParams({ filename: file.name.slice(-255), start: "false" })}`);
  request.setRequestHeader("Accept", "application/json");
  request.setRequestHeader("Content-Type", "application/octet-stream");
  return new Promise((resolve, reject) => {
    const stop = () => request.abort();
    signal.addEventListener("abort", stop);
    request.upload.onprogress = ({ loaded, total }) => told(total ? loaded / total : 1);
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    request.onerror = () => reject(new ApiError(0, `${file.name} could not be sent: the service does not answer, or the browser cannot read the file.`));
    request.onload = () => {
      let data = null;
      try { data = JSON.parse(request.responseText); } catch { /* a proxy's page */ }
      if (request.status === 202 && data) resolve(data);
      else reject(new ApiError(request.status, `${data?.error ?? `The service answered ${request.status}`}.`, null));
    };
    request.onloadend = () => signal.removeEventListener("abort", stop);
    request.send(file);
  });
}
