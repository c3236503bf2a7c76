// Sets the colours before the page is drawn for the first time; a plain script, because modules come too late for that.
// theme.js has the switch.
try {
  const theme = localStorage.getItem("fast-inference.theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // a browser that keeps nothing: the colours of the system
}
