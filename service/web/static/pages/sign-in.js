// Signing in: by name and password, or at the company's provider.
import { html, useState } from "/static/vendor/ui.js";
import { post } from "../frame/api.js";
import { Button, Failure, Field, LinkButton, Notice, Page, useLoad } from "../frame/parts.js";
import { go } from "../frame/router.js";
import { refreshMe } from "../frame/session.js";

const PROBLEMS = {
  provider: "Your company's sign-in cannot be reached, or did not answer as it should. Please try again in a moment.",
  refused: "Your company account was not let in. Ask whoever administers Heed here.",
  expired: "That took too long, or began in another browser. Please sign in again.",
};

/** The path to go on to: one of this page's own, whatever the address says. */
function ownPath(path) {
  return path && /^\/(?![/\\])/.test(path) && path !== "/sign-in" ? path : "/";
}

function PasswordForm({ next }) {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const onSubmit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await post("/api/sign-in", { name, password });
      await refreshMe();
      go(next, { replace: true });
    } catch (problem) {
      setError(problem);
      setPassword("");
      setBusy(false);
    }
  };
  return html`<form class="stack" onSubmit=${onSubmit}>
    <${Failure} error=${error && { detail: sentence(error.detail), reference: error.reference }} />
    <${Field} label="Sign-in name" name="username" autocomplete="username" autocapitalize="none" spellcheck=${false} required
      value=${name} onInput=${(event) => setName(event.target.value)} />
    <${Field} label="Password" name="password" type="password" autocomplete="current-password" required
      value=${password} onInput=${(event) => setPassword(event.target.value)} />
    <div class="row"><${Button} kind="primary" type="submit" busy=${busy}>Sign in</${Button}></div>
    <p class="hint">Forgotten it? Whoever administers Heed here can give you a link to a new password.</p>
  </form>`;
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

export default function SignIn({ query }) {
  const { data, error, reload } = useLoad("/api/sign-in");
  const next = ownPath(query.get("next"));
  const problem = PROBLEMS[query.get("problem")];
  return html`<${Page} title="Sign in"><div class="narrow stack">
    ${problem && html`<${Failure} error=${problem} />`}
    <${Failure} error=${error} onRetry=${reload} />
    ${data?.first && html`<${Notice}>Nobody has an account yet. The link to the first one stands where Heed was started.</${Notice}>`}
    ${data?.provider && html`<p><${LinkButton} kind="primary" href=${`/api/sign-in/provider?next_path=${encodeURIComponent(next)}`}>${data.provider}</${LinkButton}></p>`}
    ${data?.provider && data.passwords && html`<h2>Or with a password</h2>`}
    ${data?.passwords && html`<${PasswordForm} next=${next} />`}
  </div></${Page}>`;
}
