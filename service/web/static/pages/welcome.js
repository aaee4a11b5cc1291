// Where one-time links lead: the first account, an invited one, or a new password.
import { html, useEffect, useState } from "/static/vendor/ui.js";
import { post } from "../frame/api.js";
import { Button, Empty, Failure, Field, LinkButton, Page } from "../frame/parts.js";
import { go, renamePlace } from "../frame/router.js";
import { refreshMe } from "../frame/session.js";

const TITLES = { first: "Make the first account", invitation: "Welcome to Heed", password: "Take a new password" };
const TEXTS = {
  first: "You will administer Heed: invite people, and say what they may do.",
  invitation: "Somebody who administers Heed here has invited you. Make your account with a name and a password.",
  password: "Somebody who administers Heed here has given you this link. Your other browsers are signed out with it.",
};
const ROLES = { employee: "ask and vote", reviewer: "ask, vote and review", operator: "ask, vote, review and train", admin: "do everything" };

function Form({ token, link }) {
  const [values, setValues] = useState({ name: link.name ?? "", sign_in_name: "", password: "" });
  const [shown, setShown] = useState(false);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const field = (name) => ({ name, value: values[name], required: true, onInput: (event) => setValues((old) => ({ ...old, [name]: event.target.value })) });
  const onSubmit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await post("/api/welcome", { token, ...values });
      await refreshMe();
      go("/", { replace: true });
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`<form class="stack" onSubmit=${onSubmit}>
    <p>${TEXTS[link.kind]}</p>
    ${link.kind === "invitation" && html`<p>You will be able to ${ROLES[link.role]}.</p>`}
    <${Failure} error=${error} />
    ${link.kind !== "password" && html`<${Field} label="Your name" hint="What others see of you." autocomplete="name" maxlength="80" ...${field("name")} />
      <${Field} label="Sign-in name" hint="Your e-mail address is a good one." autocomplete="username" autocapitalize="none" spellcheck=${false} maxlength="254" ...${field("sign_in_name")} />`}
    <${Field} label="Password" hint=${`${link.shortest_password} characters or more: a short sentence is easy to keep in mind.`}
      type=${shown ? "text" : "password"} autocomplete="new-password" minlength=${link.shortest_password} ...${field("password")} />
    <${Field} label="Show the password" type="checkbox" checked=${shown} onChange=${(event) => setShown(event.target.checked)} />
    <div class="row"><${Button} kind="primary" type="submit" busy=${busy}>${link.kind === "password" ? "Take this password" : "Make the account"}</${Button}></div>
  </form>`;
}

export default function Welcome() {
  const [token] = useState(() => window.location.hash.slice(1));
  const [link, setLink] = useState(null);
  const [error, setError] = useState(null);
  const look = async () => {
    setError(null);
    try { setLink(await post("/api/welcome/look", { token })); } catch (problem) { setError(problem); }
  };
  useEffect(() => {
    // The link is not to stay in the browser's history.
    renamePlace("/welcome");
    look();
  }, []);
  const over = error?.status === 404;
  return html`<${Page} title=${link ? TITLES[link.kind] : "Welcome to Heed"}><div class="narrow stack">
    ${over ? html`<${Failure} error="This link was used already, or has run out. Ask whoever gave it to you for a new one." />
      <p><${LinkButton} href="/sign-in">Sign in</${LinkButton}></p>` : html`<${Failure} error=${error} onRetry=${look} />`}
    ${!link && !error && html`<${Empty}>Looking at the link…</${Empty}>`}
    ${link && html`<${Form} token=${token} link=${link} />`}
  </div></${Page}>`;
}
