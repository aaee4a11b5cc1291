// A source at its place: the document around the passage, opened where it stands and marked.
import { html, useEffect, useRef, useState } from "/static/vendor/ui.js";
import { get } from "/static/frame/api.js";
import { Markdown } from "/static/frame/markdown.js";
import { Button, Empty, Failure, When } from "/static/frame/parts.js";

export function PassageDrawer({ passage, number, onClose }) {
  const [place, setPlace] = useState(null);
  const [error, setError] = useState(null);
  const close = useRef(null);
  const load = async () => {
    setError(null);
    setPlace(null);
    try {
      setPlace(await get(`/api/passages/${encodeURIComponent(passage.id)}`));
    } catch (problem) {
      setError(problem);
    }
  };
  useEffect(() => { load(); close.current?.querySelector("button").focus(); }, [passage.id]);
  const onKeyDown = (event) => { if (event.key === "Escape") { event.stopPropagation(); onClose(); } };
  return html`<aside class="drawer" aria-label=${`Source ${number}: ${passage.title}`} onKeyDown=${onKeyDown}>
    <header class="row" ref=${close}><h2>${number}. ${place?.title ?? passage.title}</h2>
      <${Button} kind="plain" aria-label="Close the source" onClick=${onClose}>✕</${Button}></header>
    <div class="drawer-body" tabindex="0" role="region" aria-label="The document">
      ${error?.status === 404 ? html`<${Gone} passage=${passage} />` : html`<${Failure} error=${error} onRetry=${load} />`}
      ${!place && !error && html`<${Empty}>Loading…</${Empty}>`}
      ${place && html`<${Place} place=${place} />`}
    </div></aside>`;
}

function Gone({ passage }) {
  return html`<p class="notice">This document was changed, removed or closed to you since. The answer was written from this text:</p>
    <section class="marked"><${Markdown} text=${passage.text} /></section>`;
}

function Place({ place }) {
  const marked = useRef(null);
  useEffect(() => { marked.current?.scrollIntoView({ block: "center" }); }, [place]);
  let heading = null;
  return html`<p class="quiet">${place.updated && html`Changed <${When} at=${place.updated} />. `}
      ${place.url && html`<a href=${place.url} target="_blank" rel="noopener noreferrer nofollow">Open the original</a>`}</p>
    ${place.more_before && html`<p class="quiet">… the document begins earlier …</p>`}
    ${place.passages.map((part) => {
    const named = part.heading && part.heading !== heading ? html`<h3>${part.heading}</h3>` : null;
    heading = part.heading;
    return html`<div key=${part.id}>${named}${part.asked_for
      ? html`<section class="marked" ref=${marked} aria-label="What the answer rests on"><${Markdown} text=${part.text} /></section>`
      : html`<${Markdown} text=${part.text} />`}</div>`;
  })}
    ${place.more_after && html`<p class="quiet">… the document goes on …</p>`}`;
}
