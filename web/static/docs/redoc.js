// Starts Redoc on this service's own description.
const colors = { primary: { main: "#0f6b5c" } };
const fonts = { fontFamily: "Inter, system-ui, sans-serif", headings: { fontFamily: "Inter, system-ui, sans-serif" } };
withDescription((spec) => Redoc.init(spec, { theme: { colors, typography: fonts } }, document.getElementById("docs")));
