"use strict";
(() => {
  const SILENCE = 10_000; // milliseconds without a word from the daemon, which speaks every second
  const AGAIN = 5_000;
  const connection = document.getElementById("connection");
  let source = null;
  let heard = 0;
  let timer = 0;

  // Changes only what is different, so that focus, selection and opened details stay.
  function morph(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(document.importNode(fresh, true));
    } else if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
    } else {
      morphAttributes(old, fresh);
      const freshChildren = [...fresh.childNodes];
      [...old.childNodes].forEach((child, place) => {
        if (place < freshChildren.length) morph(child, freshChildren[place]);
        else child.remove();
      });
      freshChildren.slice(old.childNodes.length).forEach((child) => old.append(document.importNode(child, true)));
    }
  }

  function morphAttributes(old, fresh) {
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  }

  function show(sections) {
    for (const [id, html] of Object.entries(sections)) {
      const old = document.getElementById(id);
      const fresh = new DOMParser().parseFromString(html, "text/html").getElementById(id);
      if (old && fresh) morph(old, fresh);
    }
    const { title, icon } = document.getElementById("headline").dataset;
    if (document.title !== title) document.title = title;
    const link = document.querySelector("link[rel=icon]");
    if (link.getAttribute("href") !== icon) link.setAttribute("href", icon);
  }

  function say(words, kind) {
    if (connection.textContent !== words) connection.textContent = words;
    connection.className = `connection ${kind}`;
  }

  function lost() {
    if (connection.classList.contains("lost")) return;
    const since = new Date(heard || Date.now()).toLocaleTimeString();
    say(`No connection since ${since}: what you see is old. Trying again …`, "lost");
  }

  function connect() {
    clearTimeout(timer);
    if (source) source.close();
    source = new EventSource("events");
    source.onmessage = (message) => {
      heard = Date.now();
      show(JSON.parse(message.data));
      say("Live", "live");
      expect(SILENCE);
    };
    source.onerror = () => {
      lost();
      expect(AGAIN);
    };
    expect(SILENCE);
  }

  // One deadline at a time: whoever was silent for that long is asked anew.
  function expect(within) {
    clearTimeout(timer);
    timer = setTimeout(() => { lost(); connect(); }, within);
  }

  function rest() {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  }

  // A page that nobody looks at leaves its place to others.
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : connect()));
  addEventListener("pagehide", rest);
  addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  if (!document.hidden) connect();
})();
