// A row of tabs: one is chosen, the arrow keys, Home and End go to another.

/** Make the buttons in `list` (each with `data-name`, role "tab") work; `choose(name)` is called on
    a press and by the keys. Hidden buttons are passed over. Returns `mark(name)`, which shows which is chosen, if any. */
export function tabs(list, choose) {
  const buttons = () => [...list.children].filter((button) => !button.hidden);
  list.addEventListener("click", (event) => {
    const button = event.target.closest("[role=tab]");
    if (button) choose(button.dataset.name);
  });
  list.addEventListener("keydown", (event) => {
    const all = buttons(), at = all.indexOf(event.target), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step ? all[(at + step + all.length) % all.length] : { Home: all[0], End: all.at(-1) }[event.key];
    if (at < 0 || !next) return;
    event.preventDefault();
    choose(next.dataset.name);
    next.focus();
  });
  return (name) => {
    const known = [...list.children].some((button) => button.dataset.name === name);
    for (const button of list.children) {
      const chosen = button.dataset.name === name;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen || (!known && button === list.firstElementChild) ? 0 : -1;
    }
  };
}
