// The pieces that pages are made of. Text goes in as children or props, never as HTML.
import { html, signal, useCallback, useEffect, useId, useLayoutEffect, useRef, useState } from "/static/vendor/ui.js";
import { get } from "./api.js";
import { moves } from "./router.js";

/** A page's heading and body; the heading takes the focus when one comes from another page. */
export function Page({ title, actions = null, children, wide = false }) {
  const heading = useRef(null);
  useEffect(() => { document.title = `${title} · Heed`; }, [title]);
  useEffect(() => { if (moves.peek() > 0) heading.current?.focus({ preventScroll: true }); }, []);
  return html`<div class=${wide ? "page wide" : "page"}>
    <header class="page-head"><h1 ref=${heading} tabindex="-1">${title}</h1><div class="row">${actions}</div></header>
    ${children}
  </div>`;
}

/** A button; `kind` is "", "primary", "danger" or "plain"; `busy` shows that its work goes on. */
export function Button({ kind = "", busy = false, disabled = false, children, ...rest }) {
  return html`<button type="button" class=${`button ${kind}`} disabled=${disabled || busy}
    aria-busy=${busy ? "true" : null} ...${rest}>${children}</button>`;
}

/** A link that looks like a button. */
export function LinkButton({ kind = "", children, ...rest }) {
  return html`<a class=${`button ${kind}`} ...${rest}>${children}</a>`;
}

/** A short mark; `kind` is "", "good", "bad", "warn" or "live". Its words carry the meaning. */
export function Badge({ kind = "", children, ...rest }) {
  return html`<span class=${`badge ${kind}`} ...${rest}>${children}</span>`;
}

/**
 * A labelled input; `as` is "input", "textarea" or "select" (with <option> children). For a tick
 * box, type="checkbox". Other props go to the input.
 */
export function Field({ label, hint = null, error = null, as = "input", children, ...rest }) {
  const id = useId();
  const about = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(" ") || null;
  const box = rest.type === "checkbox" || rest.type === "radio";
  const input = html`<${as} id=${id} aria-describedby=${about} aria-invalid=${error ? "true" : null} ...${rest}>${children}</${as}>`;
  const name = html`<label for=${id}>${label}</label>`;
  return html`<div class=${box ? "field box" : "field"}>
    ${box ? [input, name] : [name, input]}
    ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
    ${error && html`<p class="failure" id=${`${id}-error`}>${error}</p>`}
  </div>`;
}

/** What went wrong, spoken at once; `error` is a Problem, an Error or a text, or null for nothing. */
export function Failure({ error, onRetry = null }) {
  if (!error) return null;
  const reference = error.reference ? html` <span class="quiet">Reference ${error.reference}</span>` : null;
  return html`<div class="failure" role="alert"><p>${error.detail ?? error.message ?? error}${reference}</p>
    ${onRetry && html`<${Button} onClick=${onRetry}>Try again</${Button}>`}</div>`;
}

/** A remark that people should see; `kind` is "", "good", "bad" or "warn". */
export function Notice({ kind = "", children }) {
  return html`<div class=${`notice ${kind}`} role="status">${children}</div>`;
}

/** What stands where a list would, were there anything. */
export function Empty({ children }) {
  return html`<p class="empty">${children}</p>`;
}

/** A bar from 0 to `total` with its words; a bar that moves where the total is not known. */
export function Progress({ label, value, total, text = null }) {
  const bar = total ? html`<progress max=${total} value=${value} aria-label=${label}></progress>`
    : html`<progress aria-label=${label}></progress>`;
  return html`<div class="progress"><span>${label}</span>${bar}<span class="quiet">${text ?? (total ? `${value} of ${total}` : "")}</span></div>`;
}

/** A moment in the reader's own words and zone. */
export function When({ at, ...rest }) {
  if (!at) return html`<span class="quiet">never</span>`;
  const moment = new Date(at);
  const text = moment.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  return html`<time datetime=${moment.toISOString()} ...${rest}>${text}</time>`;
}

/**
 * A table. `columns` are {label, cell(row), align: "end" for figures, header: true for the row's
 * name}; `rows` need an `id` unless `rowKey` finds another key. Scrolls in itself where narrow.
 */
export function Table({ caption, columns, rows, rowKey = (row) => row.id, empty = "Nothing here yet." }) {
  if (!rows.length) return html`<${Empty}>${empty}</${Empty}>`;
  const cells = (row) => columns.map(({ cell, align, header }) => (header
    ? html`<th scope="row" class=${align ?? ""}>${cell(row)}</th>` : html`<td class=${align ?? ""}>${cell(row)}</td>`));
  return html`<div class="table" role="region" aria-label=${caption} tabindex="0"><table>
    <caption class="unseen">${caption}</caption>
    <thead><tr>${columns.map(({ label, align }) => html`<th scope="col" class=${align ?? ""}>${label}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${rowKey(row)}>${cells(row)}</tr>`)}</tbody>
  </table></div>`;
}

/** Tabs; `tabs` are {id, label, content()}. `chosen` and `onChoose` keep the choice outside. */
export function Tabs({ label, tabs, chosen = null, onChoose = null }) {
  const [own, setOwn] = useState(tabs[0].id);
  const id = useId();
  const now = tabs.find((tab) => tab.id === (chosen ?? own)) ?? tabs[0];
  const choose = (tab) => { setOwn(tab.id); onChoose?.(tab.id); };
  const onKeyDown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(now) + step + tabs.length) % tabs.length];
    choose(next);
    document.getElementById(`${id}-${next.id}`)?.focus();
  };
  return html`<div class="tabs"><div role="tablist" aria-label=${label} onKeyDown=${onKeyDown}>
      ${tabs.map((tab) => html`<button type="button" role="tab" id=${`${id}-${tab.id}`} aria-selected=${String(tab === now)}
        aria-controls=${`${id}-panel`} tabindex=${tab === now ? 0 : -1} onClick=${() => choose(tab)}>${tab.label}</button>`)}
    </div><div role="tabpanel" id=${`${id}-panel`} aria-labelledby=${`${id}-${now.id}`} tabindex="0">${now.content()}</div></div>`;
}

/** A modal dialog, open while it is drawn; Escape and its own button call `onClose`. */
export function Dialog({ title, onClose, actions = null, children }) {
  const box = useRef(null);
  const id = useId();
  // The browser gives the focus back to where it was if the dialog is closed while it is still there.
  useLayoutEffect(() => {
    const dialog = box.current;
    dialog.showModal();
    return () => dialog.close();
  }, []);
  return html`<dialog ref=${box} aria-labelledby=${id} onCancel=${(event) => { event.preventDefault(); onClose(); }}>
    <header><h2 id=${id}>${title}</h2><${Button} kind="plain" aria-label="Close" onClick=${onClose}>✕</${Button}></header>
    <div class="dialog-body">${children}</div>
    ${actions && html`<footer class="row end">${actions}</footer>`}
  </dialog>`;
}

const question = signal(null);

/** Ask before something that cannot be taken back: true where the answer is yes. */
export function confirmed({ title, text, yes, no = "Cancel", danger = false }) {
  return new Promise((resolve) => {
    const answer = (said) => { question.value = null; resolve(said); };
    question.value = { title, text, yes, no, danger, answer };
  });
}

/** Where `confirmed` shows; the shell draws it once. */
export function Confirmation() {
  if (!question.value) return null;
  const { title, text, yes, no, danger, answer } = question.value;
  const actions = html`<${Button} onClick=${() => answer(false)}>${no}</${Button}>
    <${Button} kind=${danger ? "danger" : "primary"} onClick=${() => answer(true)}>${yes}</${Button}>`;
  return html`<${Dialog} title=${title} onClose=${() => answer(false)} actions=${actions}><p>${text}</p></${Dialog}>`;
}

const toasts = signal([]);
let toastNumber = 0;

/** A short message that goes after `seconds`, with one action if wanted; gives a way to end it. */
export function toast(text, { label = null, action = null, seconds = 6 } = {}) {
  const entry = { id: ++toastNumber, text, label };
  const end = () => { toasts.value = toasts.value.filter(({ id }) => id !== entry.id); };
  entry.onAction = () => { end(); action?.(); };
  entry.end = end;
  toasts.value = [...toasts.value, entry];
  setTimeout(end, seconds * 1000);
  return end;
}

/** Where toasts show; the shell draws it once. */
export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">${toasts.value.map((entry) => html`
    <div class="toast" key=${entry.id}><span>${entry.text}</span>
      ${entry.label && html`<${Button} onClick=${entry.onAction}>${entry.label}</${Button}>`}
      <${Button} kind="plain" aria-label="Dismiss" onClick=${entry.end}>✕</${Button}></div>`)}</div>`;
}

/**
 * What a path answers: {data, error, loading, reload}. Read anew when the path changes, and every
 * `every` seconds while the page can be seen, or as often as the server answers if it needs longer;
 * the last data stays while it loads. null reads nothing.
 */
export function useLoad(path, { every = 0 } = {}) {
  const [state, setState] = useState({ data: null, error: null, loading: path !== null, of: path });
  const running = useRef(null);
  const reload = useCallback(async () => {
    if (path === null) return;
    running.current?.abort();
    const mine = new AbortController();
    running.current = mine;
    try {
      const data = await get(path, { signal: mine.signal });
      setState({ data, error: null, loading: false, of: path });
    } catch (error) {
      if (error.name !== "AbortError") setState((old) => ({ data: old.of === path ? old.data : null, error, loading: false, of: path }));
    } finally {
      if (running.current === mine) running.current = null;
    }
  }, [path]);
  useEffect(() => {
    setState((old) => ({ ...old, loading: path !== null }));
    reload();
    const again = every && setInterval(() => { if (!document.hidden && running.current === null) reload(); }, every * 1000);
    return () => { running.current?.abort(); if (again) clearInterval(again); };
  }, [reload, every]);
  return { ...state, reload };
}
