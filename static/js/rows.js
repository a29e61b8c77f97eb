// Reads a person's file: CSV, JSONL or plain lines become {text, id?, metadata} rows.

const TEXT_NAMES = ["text", "content", "sentence", "document", "body", "abstract", "question"];

/** The rows of a file, by the ending of its name. Throws an Error that says which line is wrong. */
export function rowsOf(name, content) {
  const ending = name.toLowerCase().split(".").pop();
  const clean = content.replace(/^\uFEFF/, "");
  if (ending === "csv") return fromCsv(clean);
  if (ending === "jsonl" || ending === "ndjson") return fromJsonl(clean);
  if (ending === "txt") return clean.split(/\r?\n/).map((line) => line.trim()).filter(Boolean).map((text) => ({ text, metadata: {} }));
  throw new Error("A .csv, .jsonl or .txt file is needed.");
}

function fromJsonl(content) {
  const rows = [];
  content.split(/\r?\n/).forEach((line, i) => {
    if (!line.trim()) return;
    let value;
    try { value = JSON.parse(line); } catch { throw new Error(`Line ${i + 1} is not JSON.`); }
    if (typeof value === "string") value = { text: value };
    rows.push(row(value, `Line ${i + 1}`));
  });
  return rows;
}

function fromCsv(content) {
  const [names, ...lines] = cells(content);
  if (!names) return [];
  return lines.map((line, i) => row(Object.fromEntries(names.map((name, j) => [name.trim(), line[j] ?? ""])), `Row ${i + 2}`, names[0].trim()));
}

function row(value, where, fallback) {
  const named = TEXT_NAMES.find((name) => typeof value[name] === "string") ?? fallback;
  const text = value[named];
  if (typeof text !== "string" || !text.trim()) throw new Error(`${where} has no text; name its field "text".`);
  const { id, metadata, [named]: _, ...rest } = value;
  const inner = metadata && typeof metadata === "object" ? metadata : metadata ? { metadata } : {};
  return { text, metadata: { ...rest, ...inner }, ...(id === undefined || id === "" ? {} : { id: String(id) }) };
}

/** The cells of a CSV text (RFC 4180): quotes may hold commas, line ends and doubled quotes. */
export function cells(content) {
  const lines = [];
  let line = [], cell = "", quoted = false;
  for (let i = 0; i < content.length; i++) {
    const c = content[i];
    if (quoted) {
      if (c !== '"') cell += c;
      else if (content[i + 1] === '"') { cell += '"'; i++; }
      else quoted = false;
    } else if (c === '"' && cell === "") quoted = true;
    else if (c === ",") { line.push(cell); cell = ""; }
    else if (c === "\n" || c === "\r") {
      if (c === "\r" && content[i + 1] === "\n") i++;
      line.push(cell);
      lines.push(line);
      line = []; cell = "";
    } else cell += c;
  }
  if (cell || line.length) { line.push(cell); lines.push(line); }
  return lines.filter((one) => one.length > 1 || one[0] !== "");
}
