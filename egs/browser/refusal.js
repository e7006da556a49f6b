// An error that the user can do something about: its message is shown as it stands.

export class Refusal extends Error {
  constructor(message, cause) {
    super(message, { cause });
  }
}
