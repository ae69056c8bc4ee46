// Copying commands, the values of a point under the pointer, and a slider through time. Without it a page shows the same.
(() => {
  "use strict";
  const REACH = 14; // CSS pixels between the pointer and the point that it means: about the size of a finger tip
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  for (const command of document.querySelectorAll(".command")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      const done = await copy(command);
      button.textContent = done ? "Copied" : "Select it and copy by hand";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    command.after(button);
  }

  async function copy(element) {
    try {
      await navigator.clipboard.writeText(element.textContent);
      return true;
    } catch {
      getSelection().selectAllChildren(element);
      return document.execCommand("copy");
    }
  }

  for (const figure of document.querySelectorAll("figure")) {
    const script = figure.querySelector("script");
    if (script) live(figure, JSON.parse(script.textContent));
  }

  function live(figure, data) {
    const groups = data.groups.map((group) => {
      const marks = [...figure.querySelectorAll(`[data-points="${group.name}"] use`)];
      return { ...group, marks, svg: marks.length ? marks[0].ownerSVGElement : null };
    });
    for (const svg of figure.querySelectorAll("svg")) {
      const own = groups.filter((group) => group.svg === svg);
      if (own.length) hover(svg, own, data.sprite, figure.querySelector(".sprite"));
    }
    const slider = figure.querySelector(".slider");
    if (slider) slide(slider, groups.filter((group) => group.frames), data.times);
  }

  function hover(svg, groups, sprite, picture) {
    const ring = document.createElementNS(svg.namespaceURI, "circle");
    ring.setAttribute("class", "ring");
    ring.setAttribute("r", 5);
    ring.style.display = "none";
    svg.append(ring);
    const hide = () => {
      tip.hidden = true;
      ring.style.display = "none";
    };
    svg.addEventListener("pointerleave", hide);
    for (const kind of ["pointermove", "pointerdown"]) {
      svg.addEventListener(kind, (event) => {
        const screen = svg.getScreenCTM();
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(screen.inverse());
        const found = nearest(groups, at, REACH / screen.a);
        if (!found) return hide();
        ring.setAttribute("cx", found.mark.getAttribute("x"));
        ring.setAttribute("cy", found.mark.getAttribute("y"));
        ring.style.display = "";
        tip.replaceChildren();
        if (sprite && found.group.tiles) tip.append(tile(sprite, picture, found.group.tiles[found.place]));
        tip.append(found.group.texts[found.place]);
        tip.hidden = false;
        const right = event.clientX + tip.offsetWidth + 24 < innerWidth;
        tip.style.left = `${right ? event.clientX + 14 : Math.max(4, event.clientX - tip.offsetWidth - 14)}px`;
        tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 4))}px`;
      });
    }
  }

  function nearest(groups, at, reach) {
    let best = null;
    let least = reach * reach;
    for (const group of groups) {
      group.marks.forEach((mark, place) => {
        const distance = (mark.getAttribute("x") - at.x) ** 2 + (mark.getAttribute("y") - at.y) ** 2;
        if (distance < least) {
          least = distance;
          best = { group, mark, place };
        }
      });
    }
    return best;
  }

  function tile(sprite, picture, number) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [sprite.width, sprite.height];
    const left = (number % sprite.columns) * sprite.width;
    const top = Math.floor(number / sprite.columns) * sprite.height;
    const size = [sprite.width, sprite.height];
    canvas.getContext("2d").drawImage(picture, left, top, ...size, 0, 0, ...size);
    return canvas;
  }

  function slide(slider, groups, times) {
    const input = slider.querySelector("input");
    const output = slider.querySelector("output");
    const move = () => {
      const t = Number(input.value);
      let k = 0;
      while (k < times.length - 2 && times[k + 1] <= t) k += 1;
      const share = (t - times[k]) / (times[k + 1] - times[k]);
      for (const { marks, frames } of groups) {
        marks.forEach((mark, i) => {
          const [x, y] = [2 * i, 2 * i + 1].map((j) => (frames[k][j] + share * (frames[k + 1][j] - frames[k][j])) / 10);
          mark.setAttribute("x", x);
          mark.setAttribute("y", y);
        });
      }
      output.textContent = `t = ${t.toFixed(2)}${t === 0 ? ", noise" : t === 1 ? ", end" : ""}`;
    };
    input.addEventListener("input", move);
    slider.hidden = false;
    move();
  }
})();
