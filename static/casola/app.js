"use strict";
// What pages can do besides: every form and link works without this file.
(() => {
  const real = new WeakMap(); // masked element -> its secret
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const mask = (text) => text.slice(0, 11) + "•".repeat(12) + text.slice(-4);

  function toast(text) {
    const box = document.querySelector(".toasts");
    const note = document.createElement("div");
    const words = document.createElement("span");
    note.className = "toast";
    words.textContent = text;
    note.append(words);
    box.append(note);
    setTimeout(() => note.remove(), 4000);
  }

  function plainText(element) {
    const copy = element.cloneNode(true);
    const masked = all("[data-secret]", element);
    all("[data-secret]", copy).forEach((each, place) => {
      each.textContent = real.get(masked[place]) ?? each.textContent;
    });
    return copy.textContent;
  }

  async function copyText(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea"); // pages without https have no clipboard
      area.value = text;
      area.setAttribute("readonly", "");
      area.className = "sr";
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) return toast("Copying is not allowed here: select the text and copy it.");
    }
    toast("Copied");
  }

  all("[data-copy], [data-copy-from]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      const from = button.dataset.copyFrom;
      copyText(from ? plainText(document.getElementById(from)) : button.dataset.copy);
    });
  });

  const secrets = all("[data-secret]");
  secrets.forEach((each) => {
    real.set(each, each.textContent);
    each.textContent = mask(each.textContent);
  });
  all("[data-reveal]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      button.textContent = shown ? "Hide" : "Reveal";
      secrets.forEach((each) => { each.textContent = shown ? real.get(each) : mask(real.get(each)); });
    });
  });

  all("[data-dismiss]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => button.parentElement.remove());
  });

  all("[data-theme-switch]").forEach((form) => {
    form.addEventListener("submit", (event) => {
      const chosen = event.submitter?.value;
      if (!chosen) return;
      event.preventDefault();
      const root = document.documentElement;
      const kept = chosen === "system" ? 0 : 31536000;
      document.cookie = `theme=${chosen}; path=/; max-age=${kept}; samesite=lax` + (location.protocol === "https:" ? "; secure" : "");
      if (kept) root.dataset.theme = chosen; else delete root.dataset.theme;
      all("[data-theme-switch] button").forEach((each) => each.setAttribute("aria-pressed", String(each.value === chosen)));
    });
  });

  all("[data-confirm]").forEach((input) => {
    const button = input.form?.querySelector("button.danger");
    if (!button) return;
    const check = () => { button.disabled = input.value.trim().toLowerCase() !== input.dataset.confirm.trim().toLowerCase(); };
    input.addEventListener("input", check);
    check();
  });

  // The answer's part of the page takes the place of this one's, so that a secret stays in view.
  all("form[data-inline]").forEach((form) => form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    button.textContent = form.dataset.busy;
    let part = null;
    try {
      const answer = await fetch(form.action, { method: "POST", body: new FormData(form) });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      part = page.getElementById(form.dataset.inline);
    } catch { /* said below */ }
    button.disabled = false;
    button.textContent = form.dataset.again;
    if (!part) return toast("That did not work. Try again in a moment.");
    document.getElementById(form.dataset.inline).replaceChildren(...part.childNodes);
  }));

  all("details.menu").forEach((menu) => {
    document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  });

  all("[data-tabs]").forEach((box, number) => {
    const panels = all(":scope > [data-tab]", box);
    const list = document.createElement("div");
    list.className = "tabs";
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", box.dataset.tabs);
    const tabs = panels.map((panel, place) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.id = `tab-${number}-${place}`;
      tab.setAttribute("role", "tab");
      tab.textContent = panel.dataset.tab;
      panel.id ||= `panel-${number}-${place}`;
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      panel.querySelector("h3")?.classList.add("sr");
      list.append(tab);
      return tab;
    });
    const choose = (chosen) => tabs.forEach((tab, place) => {
      const is = place === chosen;
      tab.setAttribute("aria-selected", String(is));
      tab.tabIndex = is ? 0 : -1;
      panels[place].hidden = !is;
    });
    tabs.forEach((tab, place) => {
      tab.addEventListener("click", () => choose(place));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = (place + step + tabs.length) % tabs.length;
        choose(next);
        tabs[next].focus();
      });
    });
    box.prepend(list);
    choose(0);
  });

  const live = document.querySelector("[data-poll]");
  if (live) {
    live.querySelector("[data-no-js]").hidden = true;
    const look = async () => {
      let told = null;
      try {
        const answer = await fetch(live.dataset.poll, { headers: { accept: "application/json" } });
        if (answer.redirected || answer.status === 403) return; // signed out meanwhile
        if (answer.ok) told = await answer.json();
      } catch { /* the next look may find the server again */ }
      if (told?.received) {
        const { model, status, completion_tokens: made } = told.request;
        live.classList.add("good");
        live.querySelector("span:not(.dot)").textContent = `${live.dataset.done}: ${model}, ${status}, ${made} tokens.`;
        live.querySelector("[data-then]").hidden = false;
        return;
      }
      setTimeout(look, document.hidden ? 10000 : 2000);
    };
    setTimeout(look, 2000);
  }
})();
