// What came of what somebody gave: a button in the header that opens the list of notices.
import { html, useRef, useState } from "/static/vendor/ui.js";
import { post } from "./api.js";
import { Button, Empty, useLoad, When } from "./parts.js";

const EVERY_S = 60;

export function Notices() {
  const [open, setOpen] = useState(false);
  const { data, reload } = useLoad("/api/notices", { every: EVERY_S });
  const box = useRef(null);
  if (!data) return html`<div id="notices"></div>`;
  const show = () => setOpen(!open);
  const close = async () => {
    setOpen(false);
    box.current?.querySelector("button").focus();
    if (data.unread) {
      await post("/api/notices/read").catch(() => {});
      reload();
    }
  };
  const onKeyDown = (event) => { if (event.key === "Escape" && open) { event.stopPropagation(); close(); } };
  const label = data.unread ? `Notices (${data.unread} new)` : "Notices";
  return html`<div id="notices" ref=${box} onKeyDown=${onKeyDown}>
    <${Button} kind="plain" aria-expanded=${String(open)} aria-controls="notice-list" onClick=${open ? close : show}>${label}</${Button}>
    ${open && html`<section id="notice-list" class="card" aria-label="Notices">
      ${!data.notices.length && html`<${Empty}>Nothing yet. When something you reported is fixed, it says so here.</${Empty}>`}
      ${data.notices.length > 0 && html`<ul>${data.notices.map((notice) => html`<li key=${notice.id}>
        <p>${!notice.read_at && html`<strong>New: </strong>`}${notice.link ? html`<a href=${notice.link}>${notice.text}</a>` : notice.text}</p>
        <p class="quiet"><${When} at=${notice.created_at} /></p></li>`)}</ul>`}
      <${Button} onClick=${close}>Close</${Button}></section>`}
  </div>`;
}
