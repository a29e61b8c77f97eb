// How a map is moved and pointed at: mouse, wheel, fingers, keys.

const CLICK = 5; // pixels that a press may move and still be a click
const REACH = 14; // pixels from a point at which it is meant
const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** Let `field`, the element over the canvases, move a scene. `on` has what to call: `point(index,
    aloud)`, `open(index)`, `lassoed(indices)`, `leave()`; `on.lassoing()` says whether a drag draws one. */
export function listen(field, scene, on) {
  const down = new Map(); // pointers that press: their place
  let moved = 0, drawing = false;
  const place = (event) => {
    const box = field.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  field.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    field.setPointerCapture(event.pointerId);
    down.set(event.pointerId, place(event));
    moved = 0;
    drawing = down.size === 1 && (event.shiftKey || on.lassoing());
    if (drawing) scene.lasso = [place(event)];
  });

  field.addEventListener("pointermove", (event) => {
    const now = place(event), before = down.get(event.pointerId);
    if (!before) {
      if (event.pointerType !== "touch") on.point(scene.nearest(...now, REACH), false);
      return;
    }
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    moved += Math.hypot(dx, dy);
    if (drawing) {
      scene.lasso.push(now);
      scene.mark();
    } else if (down.size === 2) {
      const [other] = [...down].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
      scene.pan(dx / 2, dy / 2);
      scene.zoom(apart(now) / Math.max(1, apart(before)), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else if (moved > CLICK) {
      on.point(-1, false);
      scene.pan(dx, dy);
    }
    down.set(event.pointerId, now);
  });

  const up = (event) => {
    if (!down.delete(event.pointerId)) return;
    if (drawing) {
      drawing = false;
      const found = scene.lasso.length > 2 ? scene.enclosed() : [];
      scene.lasso = [];
      scene.mark();
      if (moved > CLICK) on.lassoed(found);
    } else if (moved <= CLICK && event.type === "pointerup") {
      const index = scene.nearest(...place(event), REACH);
      on.point(index, false);
      if (index >= 0) on.open(index);
    }
  };
  field.addEventListener("pointerup", up);
  field.addEventListener("pointercancel", up);
  field.addEventListener("pointerleave", () => { if (!down.size) on.point(-1, false); });
  field.addEventListener("blur", () => on.point(-1, false));

  field.addEventListener("wheel", (event) => {
    if (event.deltaY > 0 && !scene.zoomed) return; // all is in sight: the page goes on
    event.preventDefault();
    scene.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015) * (event.deltaMode ? 16 : 1)), ...place(event));
  }, { passive: false });

  field.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (ARROWS[event.key] && scene.x.length) {
      const from = scene.current;
      on.point(from < 0 ? scene.nearest(scene.width / 2, scene.height / 2, Infinity) : scene.beside(from, ARROWS[event.key]), true);
    } else if (event.key === "Enter" && scene.current >= 0) on.open(scene.current);
    else if (event.key === "Escape") on.leave();
    else if (event.key === "+" || event.key === "=") scene.zoom(1.5);
    else if (event.key === "-") scene.zoom(1 / 1.5);
    else if (event.key === "0") scene.home();
    else return;
    event.preventDefault();
  });
}
