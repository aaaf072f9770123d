// Figures show the values of the marker nearest to the pointer, or of the one that the arrow keys reach. Without this script,
// browsers show the title of each marker. A button of a legend hides and shows its series in all figures.
{
  const REACH = 24; // pixels
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.append(tip);
  const middle = (point) => {
    const box = point.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };

  const place = (point) => {
    const [x, y] = middle(point);
    const left = Math.min(x - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = y - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above < 4 ? y + 12 : above}px`;
  };

  const follow = (drawing, points) => {
    const texts = new Map();
    for (const point of points) {
      const title = point.querySelector("title");
      texts.set(point, title.textContent);
      title.remove(); // or the browser would show it too
    }
    const name = drawing.querySelector("title");
    drawing.setAttribute("aria-label", `${name.textContent}: arrow keys go through the values`);
    drawing.removeAttribute("aria-labelledby");
    name.remove();
    drawing.tabIndex = 0;
    let chosen = null;
    const shown = () => points.filter((point) => !point.classList.contains("off"));
    const show = (point) => {
      chosen?.classList.remove("chosen");
      chosen = point;
      tip.hidden = !point;
      if (!point) return;
      point.classList.add("chosen");
      tip.textContent = texts.get(point);
      place(point);
    };
    const nearest = (event) => {
      let [best, least] = [null, REACH];
      for (const point of shown()) {
        const [x, y] = middle(point);
        const distance = Math.hypot(x - event.clientX, y - event.clientY);
        if (distance < least) [best, least] = [point, distance];
      }
      show(best);
    };
    drawing.addEventListener("pointermove", nearest);
    drawing.addEventListener("pointerdown", nearest);
    drawing.addEventListener("pointerleave", () => show(null));
    drawing.addEventListener("blur", () => show(null));
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const left = shown();
      if (event.key === "Escape") show(null);
      if (!step || !left.length) return;
      event.preventDefault();
      const at = left.indexOf(chosen);
      show(left[at < 0 ? (step > 0 ? 0 : left.length - 1) : (at + step + left.length) % left.length]);
    });
  };

  for (const drawing of document.querySelectorAll("figure svg[role=img]")) {
    const points = [...drawing.querySelectorAll(".point")];
    if (points.length) follow(drawing, points);
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  for (const button of document.querySelectorAll(".switches button")) {
    button.addEventListener("click", () => {
      const off = button.getAttribute("aria-pressed") === "true";
      for (const part of document.querySelectorAll(`[data-series="${button.dataset.series}"]`)) {
        if (part.matches("button")) part.setAttribute("aria-pressed", String(!off));
        else part.classList.toggle("off", off);
      }
    });
  }
}
