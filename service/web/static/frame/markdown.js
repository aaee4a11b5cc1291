// Answers and documents as people read them. The text is anybody's, so that nothing in it may run,
// load from elsewhere, or take the page's own look.
import { html, useEffect, useRef } from "/static/vendor/ui.js";
import { DOMPurify, Marked } from "/static/vendor/markdown.js";

const TAGS = ["a", "b", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "i",
  "li", "ol", "p", "pre", "s", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul"];
const SAFE_LINK = /^(?:https?:|mailto:)/i;
const CITATION = /\[(\d{1,2})\]/g;

const marked = new Marked({ gfm: true, breaks: true });
marked.use({
  renderer: {
    // HTML in an answer is text, not markup; a picture would tell another site who reads it.
    html: ({ text }) => escaped(text),
    image: ({ text, href }) => escaped(text || href),
    // The page has its own headings above these.
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
  },
});

function escaped(text) {
  return text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}

/** Markdown as a harmless DocumentFragment. */
export function rendered(text) {
  const fragment = DOMPurify.sanitize(marked.parse(text), {
    ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ["href", "align", "start"], ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false, RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll("a")) {
    if (!SAFE_LINK.test(link.getAttribute("href") ?? "")) link.removeAttribute("href");
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const table of fragment.querySelectorAll("table")) scrollable(table);
  return fragment;
}

// A wide table scrolls in itself, also by keyboard, and leaves the page its width.
function scrollable(table) {
  const box = document.createElement("div");
  box.className = "table";
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Table");
  table.replaceWith(box);
  box.append(table);
}

function frameCode(fragment) {
  for (const block of fragment.querySelectorAll("pre")) {
    block.tabIndex = 0;
    const box = document.createElement("div");
    box.className = "code";
    block.replaceWith(box);
    box.append(block);
    // Over plain HTTP the browser has no clipboard for pages.
    if (navigator.clipboard) box.append(copyButton(block));
  }
}

function copyButton(block) {
  const copy = document.createElement("button");
  Object.assign(copy, { type: "button", className: "button copy", textContent: "Copy" });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.querySelector("code")?.textContent ?? block.textContent);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "The browser refused";
    }
  });
  return copy;
}

function linkCitations(fragment, citations, onCite) {
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    if (!walker.currentNode.parentElement?.closest("code, a")) found.push(walker.currentNode);
  }
  for (const node of found) {
    const parts = node.data.split(CITATION);
    if (parts.length > 1) node.replaceWith(...parts.map((part, at) => (at % 2 ? citation(Number(part), citations, onCite) : part)));
  }
}

function citation(number, citations, onCite) {
  const passage = citations[number - 1];
  if (!passage) return `[${number}]`;
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "cite", textContent: String(number), title: passage.title });
  button.setAttribute("aria-label", `Source ${number}: ${passage.title}`);
  button.addEventListener("click", () => onCite(passage, number));
  return button;
}

// Blocks that stay are left alone, with what is selected in them and how far they are scrolled.
function redraw(box, fragment) {
  const fresh = [...fragment.childNodes];
  let same = 0;
  while (same < fresh.length && box.childNodes[same]?.isEqualNode(fresh[same])) same += 1;
  while (box.childNodes.length > same) box.lastChild.remove();
  box.append(...fresh.slice(same));
}

/**
 * A text as Markdown. [1] becomes a button that calls onCite(citations[0], 1) where there is such a
 * passage ({title}). While `writing`, it is drawn at most once a frame and without copy buttons.
 */
export function Markdown({ text, citations = [], onCite = null, writing = false }) {
  const box = useRef(null);
  useEffect(() => {
    const draw = () => {
      const fragment = rendered(text);
      if (onCite && citations.length) linkCitations(fragment, citations, onCite);
      if (!writing) frameCode(fragment);
      if (box.current) redraw(box.current, fragment);
    };
    if (!writing) { draw(); return undefined; }
    const frame = requestAnimationFrame(draw);
    return () => cancelAnimationFrame(frame);
  }, [text, writing, citations, onCite]);
  return html`<div class="markdown" ref=${box}></div>`;
}
