// Answers are Markdown: parsed by Marked, made harmless by DOMPurify.
export { Marked } from "marked";
export { default as DOMPurify } from "dompurify";
