// Every page: its address, who may open it, and where it stands in the navigation.
// `group` "" keeps a page out of the navigation; `open` shows it to people who are not signed in.

// One function for both addresses: a chat that gets its own keeps its page.
const chat = () => import("../pages/chat.js");

export const ROUTES = [
  { path: "/", title: "Chat", role: "employee", group: "Ask", load: chat },
  { path: "/chat/:id", title: "Chat", role: "employee", group: "", load: chat },
  { path: "/vote", title: "Vote", role: "employee", group: "Ask", load: () => import("../pages/vote.js") },
  { path: "/my-feedback", title: "My feedback", role: "employee", group: "Ask", load: () => import("../pages/my-feedback.js") },
  { path: "/review", title: "Review", role: "reviewer", group: "Teach", load: () => import("../pages/review.js") },
  { path: "/feedback", title: "Figures", role: "reviewer", group: "Teach", load: () => import("../pages/feedback.js") },
  { path: "/leaderboard", title: "Leaderboard", role: "reviewer", group: "Teach", load: () => import("../pages/leaderboard.js") },
  { path: "/runs", title: "Training", role: "reviewer", group: "Operate", load: () => import("../pages/runs.js") },
  { path: "/runs/:id", title: "Training run", role: "reviewer", group: "", load: () => import("../pages/run.js") },
  { path: "/policies", title: "Policies", role: "reviewer", group: "Operate", load: () => import("../pages/policies.js") },
  { path: "/policies/:id", title: "Policy", role: "reviewer", group: "", load: () => import("../pages/policy.js") },
  { path: "/sources", title: "Sources", role: "operator", group: "Operate", load: () => import("../pages/sources.js") },
  { path: "/sources/:name", title: "Source", role: "operator", group: "", load: () => import("../pages/sources.js") },
  { path: "/signals", title: "Signals", role: "operator", group: "Operate", load: () => import("../pages/signals.js") },
  { path: "/plugins", title: "Plugins", role: "operator", group: "Operate", load: () => import("../pages/plugins.js") },
  { path: "/people", title: "People", role: "admin", group: "Administer", load: () => import("../pages/people.js") },
  { path: "/account", title: "Your account", role: "employee", group: "", load: () => import("../pages/account.js") },
  { path: "/sign-in", title: "Sign in", open: true, group: "", load: () => import("../pages/sign-in.js") },
  { path: "/welcome", title: "Welcome", open: true, group: "", load: () => import("../pages/welcome.js") },
];
